//! What it costs like-api to verify a token, and to find it in the cache: the service's own code on
//! one thread. The minimum of several rounds, since other load on the machine only adds to it.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use anyhow::{anyhow, ensure};
use axum::http::{HeaderMap, HeaderValue, header};
use clap::Parser;
use jsonwebtoken::Algorithm;
use like_api::auth::Auth;
use like_api::config::Config;
use like_testkit::tokens::{TestKey, claims};

use super::{Bench, Row, rounded};
use crate::row;

/// Claims of some issuers, so that a token has a common size.
const SCOPES: &str = "openid profile email offline_access read:likes write:likes read:products read:reviews";
const SECRET: &str = "not secret, but at least thirty-two bytes";
const ISSUER: &str = "https://issuer.example/";
const AUDIENCE: &str = "https://likes.example/";

/// A row for each algorithm.
pub async fn tokens(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let (number, rounds) = if bench.quick { (500, 3) } else { (2_000, 10) };
    let mut rows = Vec::new();
    for algorithm in [Algorithm::HS256, Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
        let (key, source) = if algorithm == Algorithm::HS256 {
            (TestKey::of_secret(SECRET), format!("--jwt-secret={SECRET}"))
        } else {
            let key = TestKey::generate("key-1", algorithm);
            let source = format!("--jwt-public-key={}", key.public_pem);
            (key, source)
        };
        let caller = |user: usize| {
            let mut claims = claims(ISSUER, AUDIENCE, &format!("auth0|5f7c8ec7c33c6c004bbafe82{user}"));
            claims["scope"] = SCOPES.into();
            let bearer = HeaderValue::try_from(format!("Bearer {}", key.sign(&claims)))?;
            anyhow::Ok(HeaderMap::from_iter([(header::AUTHORIZATION, bearer)]))
        };
        let callers: Vec<_> = (0..number).map(caller).collect::<Result<_, _>>()?;
        let (mut verify_us, mut cached_us) = (f64::MAX, f64::MAX);
        for _ in 0..rounds {
            let auth = auth(&source)?;
            verify_us = verify_us.min(pass(&auth, &callers).await?);
            cached_us = cached_us.min(pass(&auth, &callers).await?);
        }
        rows.push(row! {
            "algorithm": format!("{algorithm:?}"),
            "token_bytes": callers[0][header::AUTHORIZATION].len() - "Bearer ".len(),
            "verify_us": rounded(verify_us),
            "cached_us": rounded(cached_us),
        });
    }
    Ok(rows)
}

/// An empty cache.
fn auth(source: &str) -> anyhow::Result<Auth> {
    let issuer = ["--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE];
    let servers = ["--kafka-bootstrap-servers=none", "--database-url=postgres://localhost/none"];
    let args = [&["like-api", "--auth-mode=jwt", source], &issuer[..], &servers].concat();
    Auth::new(&Config::try_parse_from(args)?).map_err(|refusal| anyhow!(refusal))
}

/// Microseconds per caller.
async fn pass(auth: &Auth, callers: &[HeaderMap]) -> anyhow::Result<f64> {
    let start = Instant::now();
    let mut known = 0;
    for headers in callers {
        known += usize::from(auth.known_caller(headers, IpAddr::V4(Ipv4Addr::LOCALHOST)).await.is_ok());
    }
    let seconds = start.elapsed().as_secs_f64();
    ensure!(known == callers.len(), "{known} of {} callers are known", callers.len());
    Ok(seconds / callers.len() as f64 * 1e6)
}
