//! Key sets and how each must be answered (K01 to K10, and the keys of T38 and T61).

use countersign_core::jwk::{Jwk, KeySetError, PublicNumbers, read_set, write_set};
use countersign_core::ports::KeyReader;
use countersign_crypto::AwsLc;
use num_bigint::BigUint;

use crate::setting::{Role, Setting};
use crate::workshop::{Object, text};

/// One key set and its answer.
#[derive(Clone, Debug)]
pub struct KeySetCase {
    /// The line of the catalogue.
    pub id: &'static str,
    /// What is special about the set.
    pub name: String,
    /// The JWK Set.
    pub jwks: Vec<u8>,
    /// The answer.
    pub expected: Result<(), KeySetError>,
}

impl KeySetCase {
    /// The answer of core and crypto.
    ///
    /// # Errors
    /// [`KeySetError`].
    pub fn decide(&self) -> Result<(), KeySetError> {
        read_set(&self.jwks, &AwsLc)?
            .iter()
            .try_for_each(|jwk| AwsLc.public_key(jwk).map(|_| ()))
    }
}

/// Every case.
#[must_use]
pub fn cases(setting: &Setting) -> Vec<KeySetCase> {
    let mut table = Table {
        setting,
        cases: Vec::new(),
    };
    table.good();
    table.repeated();
    table.secret();
    table.weak_rsa();
    table.weak_points();
    table.misused();
    table.incomplete();
    table.empty();
    table.large();
    table.untidy();
    table.cases
}

struct Table<'a> {
    setting: &'a Setting,
    cases: Vec<KeySetCase>,
}

type Answer = Result<(), KeySetError>;

impl Table<'_> {
    fn set(&mut self, id: &'static str, name: &str, jwks: impl Into<Vec<u8>>, expected: Answer) {
        self.cases.push(KeySetCase {
            id,
            name: name.to_owned(),
            jwks: jwks.into(),
            expected,
        });
    }

    /// A set of `key` beside a good one. One bad key refuses the set.
    fn key(&mut self, id: &'static str, name: &str, key: &str, expected: Answer) {
        let good = self.setting.key(Role::Second).jwk.to_json();
        self.set(id, name, format!(r#"{{"keys":[{good},{key}]}}"#), expected);
    }

    /// A key of these numbers, with the `kid` that belongs to them.
    fn numbers(&mut self, id: &'static str, name: &str, numbers: PublicNumbers, expected: Answer) {
        let jwk = Jwk::new(numbers, &AwsLc);
        self.key(id, name, &jwk.to_json(), expected);
    }

    /// The active key, to be spoiled.
    fn active(&self) -> Object {
        let jwk = &self.setting.key(Role::Active).jwk;
        members(jwk)
    }

    fn good(&mut self) {
        let setting = self.setting;
        let all = Role::ALL.map(|role| &setting.key(role).jwk);
        self.set("K01", "every key once", write_set(all), Ok(()));
        let active = self.active();
        let verifying = active.clone().with("key_ops", r#"["verify"]"#);
        self.key("K06", "`key_ops` is verify", &verifying.to_json(), Ok(()));
        let named = active.with("x5t", text("AAAA")).with("name", text("ours"));
        self.key("K10", "members that are not ours", &named.to_json(), Ok(()));
    }

    fn repeated(&mut self) {
        let twice = self.setting.key(Role::Second).jwk.to_json();
        self.key("K01", "a key twice", &twice, Err(KeySetError::Duplicate));
        let other = self.setting.key(Role::Stranger).key_id().as_str().to_owned();
        let active = self.active();
        let renamed = active.clone().with("kid", text(&other)).to_json();
        self.key(
            "K02",
            "another key's `kid`",
            &renamed,
            Err(KeySetError::Thumbprint),
        );
        let known = self.setting.key(Role::Second).key_id().as_str().to_owned();
        let replaced = active.clone().with("kid", text(&known)).to_json();
        self.key(
            "K02",
            "other numbers under a known `kid`",
            &replaced,
            Err(KeySetError::Thumbprint),
        );
        let named = active.with("kid", text("key-1")).to_json();
        self.key(
            "K02",
            "a `kid` that is no thumbprint",
            &named,
            Err(KeySetError::Thumbprint),
        );
    }

    fn secret(&mut self) {
        let oct = Object::new()
            .with("kty", text("oct"))
            .with("k", text("c2VjcmV0"))
            .with("alg", text("HS256"))
            .with("kid", text("x"))
            .with("use", text("sig"));
        self.key(
            "K03",
            "a symmetric key",
            &oct.to_json(),
            Err(KeySetError::Symmetric),
        );
        let alone = format!(r#"{{"keys":[{}]}}"#, oct.to_json());
        self.set("K03", "a symmetric key alone", alone, Err(KeySetError::Symmetric));
        let mixed = self.active().with("k", text("c2VjcmV0")).to_json();
        self.key("K03", "`k` in a P-256 key", &mixed, Err(KeySetError::Symmetric));
        for member in ["d", "p", "q", "dp", "dq", "qi", "oth"] {
            let private = self.active().with(member, text("AAAA")).to_json();
            self.key("K03", &format!("`{member}`"), &private, Err(KeySetError::Private));
        }
    }

    fn weak_rsa(&mut self) {
        let f4 = vec![1, 0, 1];
        let rsa = |modulus: &BigUint, exponent: &[u8]| PublicNumbers::Rsa {
            modulus: modulus.to_bytes_be(),
            exponent: exponent.to_vec(),
        };
        let weak = Err(KeySetError::Weak);
        let good = self.setting.key(Role::Rsa).jwk.numbers().clone();
        let good = match good {
            PublicNumbers::Rsa { modulus, .. } => Some(BigUint::from_bytes_be(&modulus)),
            PublicNumbers::P256 { .. } | PublicNumbers::Ed25519 { .. } => None,
        };
        let good = good.expect("the RSA key");
        for (name, modulus) in [
            ("1024 bits", odd(1024)),
            ("2047 bits", odd(2047)),
            ("16384 bits", odd(16_384)),
            ("an even modulus", &good - 1_u8),
            ("a modulus that 3 divides", divisible_by_three(&good)),
            ("a modulus of the flawed generator (ROCA)", roca()),
        ] {
            self.numbers("K04", name, rsa(&modulus, &f4), weak);
        }
        for (name, exponent) in [
            ("e = 1", vec![1]),
            ("e = 3", vec![3]),
            ("e = 65536", vec![1, 0, 0]),
            ("e of 33 bits", vec![1, 0, 0, 0, 1]),
        ] {
            self.numbers("K04", name, rsa(&good, &exponent), weak);
        }
        let zeros = [vec![0], good.to_bytes_be()].concat();
        let padded = PublicNumbers::Rsa {
            modulus: zeros,
            exponent: f4,
        };
        self.numbers("K04", "a leading zero", padded, Err(KeySetError::Member("n")));
    }

    fn weak_points(&mut self) {
        let weak = Err(KeySetError::Weak);
        let (x, y) = self.point();
        let mut off_curve = y;
        let [.., last] = &mut off_curve;
        *last ^= 1;
        let (beyond, root) = beyond_the_field();
        for (name, x, y) in [
            ("off the curve", x, off_curve),
            ("zero for infinity", [0; 32], [0; 32]),
            ("x and y swapped", y, x),
            ("coordinates of ones", [0xff; 32], [0xff; 32]),
            ("x beyond the field", beyond, root),
        ] {
            self.numbers("K05", name, PublicNumbers::P256 { x, y }, weak);
        }
        for (name, value) in [
            ("short", encode(x.get(1..).unwrap_or_default())),
            ("long", encode(&[&[0], x.as_slice()].concat())),
            ("empty", String::new()),
            ("padded", format!("{}=", encode(&x))),
            ("of another alphabet", "+".repeat(43)),
        ] {
            let key = self.active().with("x", text(&value)).to_json();
            self.key(
                "K05",
                &format!("x is {name}"),
                &key,
                Err(KeySetError::Member("x")),
            );
        }
        for curve in ["P-384", "P-521", "secp256k1", "p-256", "Ed25519"] {
            let key = self.active().with("crv", text(curve)).to_json();
            self.key(
                "K05",
                &format!("ES256 on {curve}"),
                &key,
                Err(KeySetError::Algorithm),
            );
        }
        for (name, x) in small_points() {
            self.numbers("T61", name, PublicNumbers::Ed25519 { x }, weak);
        }
    }

    fn misused(&mut self) {
        for value in ["enc", "", "SIG"] {
            let key = self.active().with("use", text(value)).to_json();
            self.key("K06", &format!("`use` is `{value}`"), &key, Err(KeySetError::Use));
        }
        for value in [
            r#"["encrypt"]"#,
            r#"["verify","encrypt"]"#,
            r#"["sign"]"#,
            "[]",
            r#""verify""#,
        ] {
            let key = self.active().with("key_ops", value).to_json();
            self.key(
                "K06",
                &format!("`key_ops` is {value}"),
                &key,
                Err(KeySetError::Use),
            );
        }
        for (kty, alg) in [
            ("RSA", "ES256"),
            ("EC", "RS256"),
            ("OKP", "ES256"),
            ("EC", "EdDSA"),
            ("ec", "ES256"),
        ] {
            let key = self
                .active()
                .with("kty", text(kty))
                .with("alg", text(alg))
                .to_json();
            self.key(
                "K06",
                &format!("{kty} for {alg}"),
                &key,
                Err(KeySetError::Algorithm),
            );
        }
        for alg in ["HS256", "none", "ES384", "es256", "PS256", "Ed25519", ""] {
            let key = self.active().with("alg", text(alg)).to_json();
            self.key(
                "K06",
                &format!("`alg` is `{alg}`"),
                &key,
                Err(KeySetError::Algorithm),
            );
        }
    }

    fn incomplete(&mut self) {
        for member in ["kid", "use", "kty", "x", "y"] {
            let key = self.active().without(member).to_json();
            self.key(
                "K07",
                &format!("no `{member}`"),
                &key,
                Err(KeySetError::Member(member)),
            );
            let key = self.active().with(member, "7").to_json();
            self.key(
                "K07",
                &format!("`{member}` is a number"),
                &key,
                Err(KeySetError::Member(member)),
            );
        }
        let key = self.active().without("crv").to_json();
        self.key("K07", "no `crv`", &key, Err(KeySetError::Algorithm));
        let key = self.active().without("alg").to_json();
        self.key("K07", "no `alg`", &key, Err(KeySetError::Member("alg")));
        self.key(
            "T38",
            "no `alg`, so that a header could choose",
            &key,
            Err(KeySetError::Member("alg")),
        );
        for key in ["{}", "[]", "null", "7"] {
            let expected = if key == "{}" {
                KeySetError::Member("kty")
            } else {
                KeySetError::Malformed
            };
            self.key("K07", &format!("the key {key}"), key, Err(expected));
        }
    }

    fn empty(&mut self) {
        self.set("K08", "no key", r#"{"keys":[]}"#, Err(KeySetError::Empty));
        for document in [
            "{}",
            "null",
            "",
            "[]",
            "<html><body>502</body></html>",
            r#"{"error":"unavailable"}"#,
            r#"{"keys":{}}"#,
            r#"{"keys":null}"#,
            r#"{"keys":""}"#,
            r#"{"Keys":[]}"#,
        ] {
            self.set("K08", document, document, Err(KeySetError::Malformed));
        }
    }

    fn large(&mut self) {
        let too_large = Err(KeySetError::TooLarge);
        self.set("K09", "10 MiB", vec![b' '; 10 * 1024 * 1024], too_large);
        let many = |count: usize, key: &str| format!(r#"{{"keys":[{}]}}"#, vec![key; count].join(","));
        self.set("K09", "10000 keys", many(10_000, "{}"), too_large);
        self.set("K09", "65 keys", many(65, "{}"), too_large);
        let gzip = [&[0x1f, 0x8b, 8, 0], vec![0; 1024].as_slice()].concat();
        self.set("K09", "compressed", gzip, Err(KeySetError::Malformed));
        let nested = format!(r#"{{"keys":{}"#, "[".repeat(100_000));
        self.set("K09", "100000 deep", nested, Err(KeySetError::Malformed));
    }

    fn untidy(&mut self) {
        let malformed = Err(KeySetError::Malformed);
        let set = write_set([&self.setting.key(Role::Active).jwk]);
        self.set("K10", "bytes after it", format!("{set}x"), malformed);
        self.set("K10", "another set after it", format!("{set}{set}"), malformed);
        self.set("K10", "NUL after it", format!("{set}\0"), malformed);
        self.set("K10", "a byte order mark", format!("\u{feff}{set}"), malformed);
        self.set("K10", "white space after it", format!("{set}\r\n"), Ok(()));
        let twice = set.replacen('{', r#"{"keys":[],"#, 1);
        self.set("K10", "`keys` twice", twice, malformed);
        let escaped = set.replacen('{', r#"{"\u006beys":[],"#, 1);
        self.set("K10", "`keys` twice, once with an escape", escaped, malformed);
        for member in ["kid", "alg", "x", "kty", "use"] {
            let twice = self.active().also(text(member), text("x")).to_json();
            self.key("K10", &format!("`{member}` twice"), &twice, malformed);
        }
        self.set(
            "K10",
            "invalid UTF-8",
            [set.as_bytes(), b"\xff"].concat(),
            malformed,
        );
    }

    fn point(&self) -> ([u8; 32], [u8; 32]) {
        let point = match self.setting.key(Role::Active).jwk.numbers() {
            PublicNumbers::P256 { x, y } => Some((*x, *y)),
            PublicNumbers::Ed25519 { .. } | PublicNumbers::Rsa { .. } => None,
        };
        point.expect("a P-256 key")
    }
}

fn encode(bytes: &[u8]) -> String {
    countersign_core::jose::encode_segment(bytes)
}

/// The members of a key, to be changed one by one.
fn members(jwk: &Jwk) -> Object {
    let value: serde_json::Value = serde_json::from_str(&jwk.to_json()).expect("JSON");
    let members = value.as_object().expect("an object");
    members.iter().fold(Object::new(), |object, (name, value)| {
        object.with(name, value.to_string())
    })
}

/// An odd number of exactly so many bits, without small factors to speak of.
fn odd(bits: u32) -> BigUint {
    let top = BigUint::from(1_u8) << (bits - 1);
    top + BigUint::from(3_u8).pow(bits / 2) * 2_u8 + 1_u8
}

fn divisible_by_three(number: &BigUint) -> BigUint {
    let six = BigUint::from(6_u8);
    let three = BigUint::from(3_u8);
    number - (number % &six) + three
}

/// A modulus that, modulo each small prime, is a power of 65537 (CVE-2017-15361).
fn roca() -> BigUint {
    let primes = (3_u32..=167).filter(|n| (2..*n).all(|d| n % d != 0));
    let product = primes.fold(BigUint::from(2_u8), |product, prime| product * prime);
    let shift = 2048 - product.bits();
    (product << shift) + BigUint::from(65_537_u32).pow(3)
}

/// A point of the curve, its small x written as a number beyond the prime of the field.
fn beyond_the_field() -> ([u8; 32], [u8; 32]) {
    let number = |text: &[u8]| BigUint::parse_bytes(text, 16).expect("hexadecimal");
    let prime = number(b"ffffffff00000001000000000000000000000000ffffffffffffffffffffffff");
    let constant = number(b"5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604b");
    let root = |x: &BigUint| {
        let square = (x.pow(3) + &prime * 3_u8 - x * 3_u8 + &constant) % &prime;
        let root = square.modpow(&((&prime + 1_u8) / 4_u8), &prime);
        (root.modpow(&BigUint::from(2_u8), &prime) == square).then_some(root)
    };
    let small = (1_u8..).map(BigUint::from);
    let (x, y) = small
        .filter_map(|x| root(&x).map(|y| (x, y)))
        .next()
        .expect("a point");
    let bytes = |number: BigUint| {
        let bytes = number.to_bytes_be();
        let padded = [vec![0; 32_usize.saturating_sub(bytes.len())], bytes].concat();
        <[u8; 32]>::try_from(padded).expect("32 bytes")
    };
    (bytes(x + &prime), bytes(y))
}

/// Ed25519 points of small order, and one that is not canonical.
fn small_points() -> Vec<(&'static str, [u8; 32])> {
    let little_endian = |number: BigUint| {
        let mut bytes = number.to_bytes_le();
        bytes.resize(32, 0);
        bytes.try_into().expect("32 bytes")
    };
    let prime: BigUint = (BigUint::from(1_u8) << 255) - 19_u8;
    vec![
        ("the neutral element", little_endian(BigUint::from(1_u8))),
        ("order 2", little_endian(&prime - 1_u8)),
        ("order 4", [0; 32]),
        ("y is the prime", little_endian(prime.clone())),
        ("y is the prime and 1", little_endian(&prime + 1_u8)),
        ("y is the prime and 3", little_endian(prime + 3_u8)),
        ("all ones", [0xff; 32]),
    ]
}
