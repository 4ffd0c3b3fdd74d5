//! The keys that verify tokens. Each key has one algorithm, which follows from the key's type and the
//! settings; a token's header only selects among the keys. So no token can have a public key used as an
//! HMAC secret, or skip verification.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::Value;

use super::bearer::Refusal;

/// Shortest HMAC secret, in bytes: as long as the hash, by RFC 7518 section 3.2.
const SECRET_MIN: usize = 32;
/// Shortest RSA modulus, in characters of base64 without padding: 2,048 bits, by section 3.3.
const MODULUS_MIN: usize = 342;

/// The requirements of every token beside its signature.
#[derive(Debug, Clone)]
pub struct Rules {
    pub issuer: String,
    pub audiences: Vec<String>,
    /// Tolerated difference of clocks, in seconds.
    pub leeway: u64,
    pub scope: Option<String>,
}

pub struct VerificationKey {
    id: Option<String>,
    pub algorithm: Algorithm,
    pub decoding: DecodingKey,
    pub validation: Validation,
}

#[derive(Default)]
pub struct KeySet {
    /// Incremented with every change; 0: no keys yet.
    pub version: u64,
    /// The published keys that aren't used, by id, for the log.
    pub skipped: Vec<String>,
    published: Vec<Jwk>,
    keys: Vec<VerificationKey>,
}

/// A published key set (RFC 7517). Entries that aren't valid keys are ignored.
#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<Value>,
}

impl VerificationKey {
    /// Returns the keys of secrets, one per line.
    pub fn of_secrets(secrets: &str, rules: &Rules) -> Result<Vec<Self>, String> {
        // An empty setting is refused as one empty secret.
        let secrets = secrets.trim_end_matches('\n').split('\n').filter(|line| secrets.is_empty() || !line.is_empty());
        secrets.map(|secret| Self::of_secret(secret, rules)).collect()
    }

    fn of_secret(secret: &str, rules: &Rules) -> Result<Self, String> {
        // Blanks can be guessed.
        let length = secret.trim().len();
        if length < SECRET_MIN {
            return Err(format!(
                "JWT_SECRET has {length} bytes, and HS256 needs at least {SECRET_MIN}: a shorter one can be guessed \
                 from a token (openssl rand -base64 48)"
            ));
        }
        Ok(Self::new(None, Algorithm::HS256, DecodingKey::from_secret(secret.as_bytes()), rules))
    }

    /// Returns the keys of PEM blocks, one after the other.
    pub fn of_pems(pems: &str, rules: &Rules) -> Result<Vec<Self>, String> {
        let mut keys = Vec::new();
        let mut rest = pems;
        loop {
            // Up to the end of the line that ends a block.
            let end = rest.find("-----END").map(|end| end + rest[end..].find('\n').unwrap_or(rest.len() - end));
            let (pem, after) = rest.split_at(end.unwrap_or(rest.len()));
            keys.push(Self::of_pem(pem, rules)?);
            rest = after.trim_start();
            if rest.is_empty() {
                return Ok(keys);
            }
        }
    }

    fn of_pem(pem: &str, rules: &Rules) -> Result<Self, String> {
        const EXPECTED: &str = "expected a public key in PEM: RSA of at least 2048 bits, EC P-256 or Ed25519";
        if pem.contains("PRIVATE KEY-----") {
            return Err("JWT_PUBLIC_KEY holds a private key, which only the issuer may have: set the public key \
                        (openssl pkey -in FILE -pubout)"
                .to_owned());
        }
        if !pem.contains("-----BEGIN PUBLIC KEY-----") && !pem.contains("-----BEGIN RSA PUBLIC KEY-----") {
            return Err(format!("JWT_PUBLIC_KEY is not a usable PEM public key: {EXPECTED}"));
        }
        let pem = pem.as_bytes();
        let tried = [
            (Algorithm::RS256, DecodingKey::from_rsa_pem(pem)),
            (Algorithm::ES256, DecodingKey::from_ec_pem(pem)),
            (Algorithm::EdDSA, DecodingKey::from_ed_pem(pem)),
        ];
        let found = tried.into_iter().find_map(|(algorithm, key)| {
            let key = key.ok()?;
            // A JWK states the key's type and is subject to the same rules.
            let jwk = Jwk::from_decoding_key(&key, Some(algorithm)).ok()?;
            (algorithm_of(&jwk)? == algorithm).then(|| Self::new(None, algorithm, key, rules))
        });
        found.ok_or_else(|| format!("JWT_PUBLIC_KEY is not a usable PEM public key: {EXPECTED}"))
    }

    /// Creates the key of a JWK, if it verifies signatures of one of these algorithms.
    fn of_jwk(jwk: &Jwk, accepted: &[Algorithm], rules: &Rules) -> Option<Self> {
        let algorithm = algorithm_of(jwk).filter(|algorithm| accepted.contains(algorithm))?;
        let common = &jwk.common;
        let for_it = common.key_algorithm.is_none_or(|named| named == KeyAlgorithm::from(algorithm))
            && common.public_key_use.as_ref().is_none_or(|of| *of == PublicKeyUse::Signature)
            && common.key_operations.as_ref().is_none_or(|of| of.contains(&KeyOperations::Verify));
        let key = DecodingKey::from_jwk(jwk).ok().filter(|_| for_it)?;
        Some(Self::new(common.key_id.clone(), algorithm, key, rules))
    }

    fn new(id: Option<String>, algorithm: Algorithm, decoding: DecodingKey, rules: &Rules) -> Self {
        let mut validation = Validation::new(algorithm);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.set_issuer(&[&rules.issuer]);
        validation.set_audience(&rules.audiences);
        validation.leeway = rules.leeway;
        validation.validate_nbf = true;
        Self { id, algorithm, decoding, validation }
    }
}

/// Returns the algorithm of a public key's type. None: an unsupported type, or a secret, which is
/// never accepted as a published key.
fn algorithm_of(jwk: &Jwk) -> Option<Algorithm> {
    match &jwk.algorithm {
        AlgorithmParameters::RSA(key) if key.n.trim_end_matches('=').len() >= MODULUS_MIN => Some(Algorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Some(Algorithm::ES256),
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Some(Algorithm::EdDSA),
        _ => None,
    }
}

impl KeySet {
    /// Returns the usable keys of a published set, as the successor of `before`. None: no change.
    pub fn published(
        json: &[u8],
        accepted: &[Algorithm],
        rules: &Rules,
        before: &Self,
    ) -> Result<Option<Self>, String> {
        let set: JwkSet = serde_json::from_slice(json).map_err(|_| "the answer is not a JWK set".to_owned())?;
        let (mut published, mut keys, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
        for value in set.keys {
            let id = value["kid"].as_str().unwrap_or("(none)").to_owned();
            let jwk = serde_json::from_value::<Jwk>(value).ok();
            match jwk.as_ref().and_then(|jwk| VerificationKey::of_jwk(jwk, accepted, rules)) {
                Some(key) => keys.push(key),
                None => skipped.push(id),
            }
            published.extend(jwk);
        }
        if before.version > 0 && published == before.published && skipped == before.skipped {
            return Ok(None);
        }
        Ok(Some(Self { version: before.version + 1, skipped, published, keys }))
    }

    /// Returns the successor without keys: they can't be fetched again and are too old.
    pub fn expired(before: &Self) -> Self {
        Self { version: before.version + 1, ..Self::default() }
    }

    /// Returns the ids of the usable keys, for the log.
    pub fn ids(&self) -> Vec<&str> {
        self.keys.iter().map(|key| key.id.as_deref().unwrap_or("(none)")).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns the keys that may have signed a token: an issuer may use an id twice. An unknown id is
    /// refused with [`UNKNOWN_KEY`].
    pub fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<Vec<&VerificationKey>, Refusal> {
        let mut fitting = self.keys.iter().filter(|key| key.algorithm == algorithm);
        let Some(id) = id else {
            return match (fitting.next(), fitting.next()) {
                (Some(only), None) => Ok(vec![only]),
                _ => Err(Refusal::token("names no key (kid), and there isn't just one for its algorithm")),
            };
        };
        let named = |key: &&VerificationKey| key.id.as_deref() == Some(id);
        let found: Vec<_> = fitting.filter(named).collect();
        if !found.is_empty() {
            return Ok(found);
        }
        let other = self.keys.iter().any(|key| named(&key));
        Err(if other { Refusal::token("has another algorithm than its key") } else { UNKNOWN_KEY })
    }
}

/// The refusal of a token whose key the issuer doesn't have.
pub const UNKNOWN_KEY: Refusal = Refusal::token("names a key (kid) that its issuer doesn't have");
