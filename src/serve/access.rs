//! Who may ask: one of the configured bearer tokens, or everyone when there are none.
//!
//! Tokens are kept as digests and compared as such, so that neither their text nor how much of it was right can leak
//! (I12). A user and password are taken for a token whatever the user's name is, because some clients know nothing else.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use sha2::{Digest, Sha256};

/// With and without padding: Go's Arrow sends none.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

pub struct Access {
    digests: Vec<[u8; 32]>,
}

/// What a client is told when it may not. Never quotes what it sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

pub const REFUSED_TEXT: &str = "this server wants a token: send \"authorization: Bearer <token>\"";

impl Access {
    pub fn new(tokens: Vec<String>) -> Self {
        Access { digests: tokens.iter().map(|t| digest(t)).collect() }
    }

    pub fn is_open(&self) -> bool {
        self.digests.is_empty()
    }

    /// `header`: the value of `authorization`, if there is one.
    pub fn check(&self, header: Option<&str>) -> Result<(), Refused> {
        if self.is_open() {
            return Ok(());
        }
        let token = header.and_then(token_in).ok_or(Refused)?;
        self.check_token(&token)
    }

    pub fn check_token(&self, token: &str) -> Result<(), Refused> {
        let given = digest(token);
        // Every digest is looked at in full, so that time tells nothing.
        let found = self.digests.iter().fold(false, |found, known| found | same(known, &given));
        if found || self.is_open() { Ok(()) } else { Err(Refused) }
    }
}

/// The token of a `Bearer` header, or the password of a `Basic` one.
pub fn token_in(header: &str) -> Option<String> {
    let (scheme, value) = header.trim().split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(value.trim().to_string());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(BASE64.decode(value.trim()).ok()?).ok()?;
    text.split_once(':').map(|(_, password)| password.to_string())
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(header: Option<&str>) -> bool {
        Access::new(vec!["s3cret".into(), "other".into()]).check(header).is_ok()
    }

    #[test]
    fn only_a_known_token_opens() {
        assert!(!check(None));
        assert!(!check(Some("")));
        assert!(!check(Some("Bearer")));
        assert!(!check(Some("Bearer wrong")));
        assert!(!check(Some("Bearer s3cre")));
        assert!(!check(Some("Basic !!!")));
        assert!(!check(Some("Digest s3cret")));
        assert!(check(Some("Bearer s3cret")));
        assert!(check(Some("bearer other")));
    }

    #[test]
    fn a_password_is_a_token_with_and_without_padding() {
        // "u:s3cret" and "me:s3cret"
        assert!(check(Some("Basic dTpzM2NyZXQ=")));
        assert!(check(Some("Basic dTpzM2NyZXQ")));
        assert!(check(Some("Basic bWU6czNjcmV0")));
        assert!(!check(Some("Basic dTp3cm9uZw==")));
    }

    #[test]
    fn without_tokens_everyone_may() {
        let open = Access::new(Vec::new());
        assert!(open.check(None).is_ok() && open.check(Some("Basic dTpw")).is_ok() && open.check_token("").is_ok());
    }
}
