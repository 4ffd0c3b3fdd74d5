//! Tokens of many users, signed with a secret of this run's own, and the settings with which
//! like-api believes them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use uuid::Uuid;

const ISSUER: &str = "https://issuer.example/";
const AUDIENCE: &str = "likes";

/// A token per user, in memory and as a file of one a line.
#[derive(Clone)]
pub struct Tokens {
    secret: Arc<str>,
    file: PathBuf,
    headers: Arc<[String]>,
}

impl Tokens {
    /// Of so many users, valid for a day.
    pub fn issue(users: u32, file: &Path) -> anyhow::Result<Self> {
        // Two of them: a secret has at least 32 bytes.
        let secret = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let expires = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 86_400;
        let key = EncodingKey::from_secret(secret.as_bytes());
        let tokens: Vec<String> = (0..users)
            .map(|user| {
                let claims =
                    json!({ "sub": format!("auth0|{user:024x}"), "iss": ISSUER, "aud": AUDIENCE, "exp": expires });
                jsonwebtoken::encode(&Header::default(), &claims, &key).context("signing a token")
            })
            .collect::<anyhow::Result<_>>()?;
        fs::write(file, tokens.join("\n") + "\n").with_context(|| file.display().to_string())?;
        let headers = tokens.iter().map(|token| format!("Authorization: Bearer {token}\r\n")).collect();
        Ok(Self { secret: secret.into(), file: file.to_owned(), headers })
    }

    /// With which like-api believes them.
    pub fn settings(&self) -> [(&str, &str); 4] {
        [("AUTH_MODE", "jwt"), ("JWT_SECRET", &self.secret), ("JWT_ISSUER", ISSUER), ("JWT_AUDIENCE", AUDIENCE)]
    }

    /// A token a line.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The header of one of the users, ending in CR LF.
    pub fn header(&self, number: u64) -> String {
        self.headers[number as usize % self.headers.len()].clone()
    }
}
