//! Values nobody declares: passed over with every check of a declared one, or kept as compact text.

use crate::codec::failure::{Failure, Outcome};
use crate::types::limit::JSON_DEPTH_MAX;
use jiter::{Jiter, Peek};

/// Passes over one value. `depth` counts the arrays and objects around it. Checks what jiter's own skip leaves out: the
/// escapes of keys, and our depth instead of its own.
pub fn skip(j: &mut Jiter, peek: Peek, depth: u8) -> Outcome {
    match peek {
        Peek::Array => {
            let depth = enter(depth)?;
            let mut next = j.known_array()?;
            while let Some(peek) = next {
                skip(j, peek, depth)?;
                next = j.array_step()?;
            }
        }
        Peek::Object => {
            let depth = enter(depth)?;
            let mut more = j.known_object()?.is_some();
            while more {
                let peek = j.peek()?;
                skip(j, peek, depth)?;
                more = j.next_key()?.is_some();
            }
        }
        scalar => j.known_skip(scalar)?,
    }
    Ok(())
}

/// The depth inside one more array or object.
pub fn enter(depth: u8) -> Outcome<u8> {
    if depth >= JSON_DEPTH_MAX {
        return Err(Failure::syntax(format!("nested deeper than {JSON_DEPTH_MAX}")));
    }
    Ok(depth + 1)
}

/// Appends a checked JSON value without the white space between its tokens; numbers and strings keep their text.
pub fn compact(raw: &[u8], out: &mut Vec<u8>) {
    let mut in_string = false;
    let mut escaped = false;
    let mut kept_from = 0;
    for (place, byte) in raw.iter().enumerate() {
        if in_string {
            if escaped {
                escaped = false;
            } else if *byte == b'\\' {
                escaped = true;
            } else if *byte == b'"' {
                in_string = false;
            }
        } else if *byte == b'"' {
            in_string = true;
        } else if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
            out.extend_from_slice(&raw[kept_from..place]);
            kept_from = place + 1;
        }
    }
    out.extend_from_slice(&raw[kept_from..]);
}
