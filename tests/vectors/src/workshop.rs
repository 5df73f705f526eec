//! A workshop for tokens: any header, any payload, any signature, members twice, odd spellings.

use countersign_core::jose::{Algorithm, encode_segment};
use countersign_core::ports::Signer;

/// A JSON object in the making: names and values as the text that will stand there, in order, repeated if so wished.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object(Vec<(String, String)>);

impl Object {
    /// Without members.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With `name` set to the JSON text `value`, in place of what it was.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        let name = text(name);
        let value = value.into();
        match self.0.iter_mut().find(|(member, _)| *member == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
        self
    }

    /// With one more member, whether or not there is one of that name. `name` is JSON text, quotes and all.
    #[must_use]
    pub fn also(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.push((name.into(), value.into()));
        self
    }

    /// Without `name`.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        let name = text(name);
        self.0.retain(|(member, _)| *member != name);
        self
    }

    /// The object in one line without spaces.
    #[must_use]
    pub fn to_json(&self) -> String {
        self.join(",", ":")
    }

    /// The object with `comma` between members and `colon` after names.
    #[must_use]
    pub fn join(&self, comma: &str, colon: &str) -> String {
        let member = |(name, value): &(String, String)| format!("{name}{colon}{value}");
        let members: Vec<String> = self.0.iter().map(member).collect();
        format!("{{{}}}", members.join(comma))
    }

    /// The object with its members in the opposite order.
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self(self.0.iter().rev().cloned().collect())
    }
}

/// `value` as a JSON string.
#[must_use]
pub fn text(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

/// The header of an access token: `alg`, `typ`, `kid`.
#[must_use]
pub fn header(algorithm: &str, key_id: &str) -> Object {
    Object::new()
        .with("alg", text(algorithm))
        .with("typ", text("at+jwt"))
        .with("kid", text(key_id))
}

/// The compact form of three parts.
#[must_use]
pub fn assemble(header: &[u8], payload: &[u8], signature: &[u8]) -> String {
    format!("{}.{}", signing_input(header, payload), encode_segment(signature))
}

/// What a signature covers.
#[must_use]
pub fn signing_input(header: &[u8], payload: &[u8]) -> String {
    format!("{}.{}", encode_segment(header), encode_segment(payload))
}

/// A token with these bytes for header and payload, correctly signed.
#[must_use]
pub fn sign(header: &[u8], payload: &[u8], signer: &dyn Signer) -> String {
    sign_input(&signing_input(header, payload), signer)
}

/// `input`, whatever it is, with its signature.
#[must_use]
pub fn sign_input(input: &str, signer: &dyn Signer) -> String {
    let signature = signer.sign(input.as_bytes()).expect("the test key signs");
    format!("{input}.{}", encode_segment(&signature))
}

/// The three segments of a token.
#[must_use]
pub fn segments(token: &str) -> [&str; 3] {
    let segments: Vec<&str> = token.split('.').collect();
    segments.try_into().expect("a compact token")
}

/// The token's signature.
#[must_use]
pub fn signature(token: &str) -> Vec<u8> {
    let [_, _, signature] = segments(token);
    countersign_core::jose::decode_segment(signature.as_bytes()).expect("base64url")
}

/// The token with another signature.
#[must_use]
pub fn with_signature(token: &str, signature: &[u8]) -> String {
    let [header, payload, _] = segments(token);
    format!("{header}.{payload}.{}", encode_segment(signature))
}

/// The token with the last character of its segment number `segment` changed in the bits that carry no data. The segment
/// must have such bits.
#[must_use]
pub fn with_unused_bits(token: &str, segment: usize) -> String {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let segments = segments(token);
    let changed = segments.iter().enumerate().map(|(index, text)| {
        if index != segment {
            return (*text).to_owned();
        }
        assert_ne!(text.len() % 4, 0, "a segment without unused bits");
        let last = text.chars().next_back().expect("not empty");
        let at = ALPHABET.find(last).expect("base64url");
        let other = ALPHABET.chars().nth(at + 1).expect("unused bits are zero");
        let kept: String = text.chars().take(text.len() - 1).collect();
        format!("{kept}{other}")
    });
    changed.collect::<Vec<_>>().join(".")
}

/// Every copy of `token` in which one bit is changed.
pub fn bit_flips(token: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    (0..token.len()).flat_map(move |index| {
        (0..8).map(move |bit| {
            let mut copy = token.to_vec();
            if let Some(byte) = copy.get_mut(index) {
                *byte ^= 1 << bit;
            }
            copy
        })
    })
}

/// The JOSE name of a signer's algorithm.
#[must_use]
pub fn algorithm_name(signer: &dyn Signer) -> &'static str {
    Algorithm::name(signer.algorithm())
}
