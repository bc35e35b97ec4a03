//! `${NAME}`, `${NAME:-default}`, `${NAME:?message}` in string values; `$${` stands for a plain `${`.
//!
//! Applied to parsed strings, never to raw text: a value with a quote or a newline in it cannot change the file's shape.
//! As in a shell, `:-` and `:?` take an empty variable for an unset one.

pub struct Interpolated {
    pub text: String,
    pub expanded: bool,
}

/// Message and hint.
pub type Trouble = (String, Option<String>);

pub fn expand(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Interpolated, Vec<Trouble>> {
    let mut out = String::with_capacity(text.len());
    let mut expanded = false;
    let mut troubles = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if rest[..start].ends_with('$') {
            out.push_str(&rest[..start - 1]);
            out.push_str("${");
            rest = &rest[start + 2..];
            continue;
        }
        out.push_str(&rest[..start]);
        let Some(length) = rest[start..].find('}') else {
            let hint = "Close it with \"}\", or write \"$${\" for a plain \"${\".";
            troubles.push(("\"${\" is never closed".to_string(), Some(hint.to_string())));
            rest = "";
            break;
        };
        expanded = true;
        match variable(&rest[start + 2..start + length], env) {
            Ok(value) => out.push_str(&value),
            Err(trouble) => troubles.push(trouble),
        }
        rest = &rest[start + length + 1..];
    }
    out.push_str(rest);
    if troubles.is_empty() { Ok(Interpolated { text: out, expanded }) } else { Err(troubles) }
}

/// The inside of `${...}`.
fn variable(inside: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, Trouble> {
    let (name, or_else) = match inside.find(':') {
        Some(colon) => (&inside[..colon], &inside[colon..]),
        None => (inside, ""),
    };
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !starts_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        let hint =
            "Letters, digits and \"_\": ${NAME}, ${NAME:-default} or ${NAME:?message}; \"$${\" is a plain \"${\".";
        return Err((format!("\"{name}\" is not the name of an environment variable"), Some(hint.to_string())));
    }
    let value = env(name);
    if or_else.is_empty() {
        return value.ok_or_else(|| {
            let hint = format!("Set it, or give a default: ${{{name}:-default}}.");
            (format!("the environment variable \"{name}\" is not set"), Some(hint))
        });
    }
    let value = value.filter(|v| !v.is_empty());
    if let Some(default) = or_else.strip_prefix(":-") {
        return Ok(value.unwrap_or_else(|| default.to_string()));
    }
    if let Some(message) = or_else.strip_prefix(":?") {
        let hint = format!("Set \"{name}\" before the start.");
        let said = if message.is_empty() { String::new() } else { format!(": {message}") };
        return value.ok_or_else(|| (format!("the environment variable \"{name}\" is not set{said}"), Some(hint)));
    }
    let hint = "After the name: \":-default\" or \":?message\".";
    Err((format!("\"${{{inside}}}\" cannot be read"), Some(hint.to_string())))
}
