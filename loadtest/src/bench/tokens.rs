//! What it costs like-api to know the caller by a token: the first time, when its signature is
//! verified, and every time after that. The service's own code, called as a request calls it, on
//! one thread; the least of several rounds, since what else the machine does only ever adds to it.

use std::time::Instant;

use anyhow::{anyhow, ensure};
use axum::http::{HeaderMap, HeaderValue, header};
use clap::Parser;
use jsonwebtoken::Algorithm;
use like_api::auth::Auth;
use like_api::config::Config;
use like_testkit::tokens::{TestKey, claims};

use super::{Figures, rounded};
use crate::figures;

/// What some issuers put into a token, so that it has the size of a common one.
const SCOPES: &str = "openid profile email offline_access read:likes write:likes read:products read:reviews";
const SECRET: &str = "no secret at all, but of thirty-two bytes or more";

/// One row for each algorithm.
pub async fn tokens(quick: bool) -> anyhow::Result<Vec<Figures>> {
    let (number, rounds) = if quick { (500, 3) } else { (2_000, 10) };
    let mut rows = Vec::new();
    for algorithm in [Algorithm::HS256, Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
        let key = match algorithm {
            Algorithm::HS256 => TestKey::of_secret(SECRET),
            other => TestKey::generate("2026-11-key", other),
        };
        let sign = |user: usize| {
            let mut claims = claims(
                "https://issuer.example/",
                "https://likes.example/",
                &format!("auth0|5f7c8ec7c33c6c004bbafe82{user}"),
            );
            claims["scope"] = SCOPES.into();
            key.sign(&claims)
        };
        let callers: Vec<_> = (0..number).map(|user| caller(&sign(user))).collect::<Result<_, _>>()?;
        let (mut verify_us, mut cached_us) = (f64::MAX, f64::MAX);
        for _ in 0..rounds {
            let auth = auth(&key)?;
            verify_us = verify_us.min(pass(&auth, &callers).await?);
            cached_us = cached_us.min(pass(&auth, &callers).await?);
        }
        rows.push(figures! {
            "part": "tokens",
            "algorithm": format!("{algorithm:?}"),
            "token_bytes": callers[0][header::AUTHORIZATION].len() - "Bearer ".len(),
            "verify_us": rounded(verify_us),
            "cached_us": rounded(cached_us),
        });
    }
    Ok(rows)
}

fn caller(token: &str) -> anyhow::Result<HeaderMap> {
    let bearer = HeaderValue::try_from(format!("Bearer {token}"))?;
    Ok(HeaderMap::from_iter([(header::AUTHORIZATION, bearer)]))
}

/// One that has seen no token yet.
fn auth(key: &TestKey) -> anyhow::Result<Auth> {
    let source = if key.algorithm == Algorithm::HS256 {
        format!("--jwt-secret={SECRET}")
    } else {
        format!("--jwt-public-key={}", key.public_pem)
    };
    let config = Config::try_parse_from([
        "like-api",
        "--auth-mode=jwt",
        "--jwt-issuer=https://issuer.example/",
        "--jwt-audience=https://likes.example/",
        &source,
        "--kafka-bootstrap-servers=none",
        "--database-url=postgres://none/none",
    ])?;
    Auth::new(&config).map_err(|refusal| anyhow!(refusal))
}

/// Microseconds for each caller.
async fn pass(auth: &Auth, callers: &[HeaderMap]) -> anyhow::Result<f64> {
    let start = Instant::now();
    let mut known = 0;
    for headers in callers {
        known += usize::from(auth.known_caller(headers).await.is_ok());
    }
    let seconds = start.elapsed().as_secs_f64();
    ensure!(known == callers.len(), "{known} of {} callers are known", callers.len());
    Ok(seconds / callers.len() as f64 * 1e6)
}
