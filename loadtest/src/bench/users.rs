//! Many users, known by tokens that are signed with a secret of this run's own, and the settings
//! with which like-api believes them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use like_testkit::tokens::{TestKey, claims, in_seconds};
use uuid::Uuid;

const ISSUER: &str = "https://issuer.example/";
const AUDIENCE: &str = "likes";

/// A token per user, in memory and as a file of one a line.
#[derive(Clone)]
pub struct Users {
    secret: Arc<str>,
    file: PathBuf,
    headers: Arc<[String]>,
}

impl Users {
    /// Of so many users, valid for a day.
    pub fn issue(users: u32, file: &Path) -> anyhow::Result<Self> {
        // Two of them: a secret has at least 32 bytes.
        let secret = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let key = TestKey::of_secret(&secret);
        let token = |user| {
            let mut claims = claims(ISSUER, AUDIENCE, &format!("auth0|{user:024x}"));
            claims["exp"] = in_seconds(86_400).into();
            key.sign(&claims)
        };
        let tokens: Vec<String> = (0..users).map(token).collect();
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
