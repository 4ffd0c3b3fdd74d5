//! The authenticated caller of a request, held to the user's rate limit. Handlers get the caller only
//! from here.

use std::cell::Cell;
use std::net::IpAddr;
use std::num::NonZeroU32;

use axum::http::HeaderMap;
use like_events::UserId;

use crate::app::AppState;
use crate::http::error::ApiError;
use crate::limits::Remaining;

tokio::task_local! {
    /// What the request has left of its rates. Only its handler knows the user, and every answer shows it, refusals too.
    pub static REMAINING: Cell<Remaining>;
}

/// The sender of a request that may name the users of its likes itself.
pub struct BatchCaller {
    /// None: a backend that names the user of each like.
    pub user: Option<UserId>,
    /// Whether likes may name their users.
    pub names_users: bool,
}

impl AppState {
    /// Returns the caller, or None for a request without credentials ([`crate::auth::Auth::caller`]).
    pub async fn caller(&self, headers: &HeaderMap, peer: IpAddr) -> Result<Option<UserId>, ApiError> {
        let user = self.auth.caller(headers, peer).await.map_err(ApiError::Auth)?;
        if let Some(user) = &user {
            self.charge(user, NonZeroU32::MIN)?;
        }
        Ok(user)
    }

    /// Returns the caller of a route that needs one.
    pub async fn known_caller(&self, headers: &HeaderMap, peer: IpAddr) -> Result<UserId, ApiError> {
        let user = self.auth.known_caller(headers, peer).await.map_err(ApiError::Auth)?;
        self.charge(&user, NonZeroU32::MIN)?;
        Ok(user)
    }

    /// Returns the sender of many likes, who is charged for their number once that is known.
    pub async fn batch_caller(&self, headers: &HeaderMap, peer: IpAddr) -> Result<BatchCaller, ApiError> {
        let names_users = self.auth.may_name_users(peer);
        let user = if names_users {
            self.auth.caller(headers, peer).await
        } else {
            self.auth.known_caller(headers, peer).await.map(Some)
        };
        Ok(BatchCaller { user: user.map_err(ApiError::Auth)?, names_users })
    }

    /// Holds the user to the rate, as if they had sent so many requests.
    pub fn charge(&self, user: &UserId, requests: NonZeroU32) -> Result<(), ApiError> {
        // Without a scope, as in tests of a route, nothing is shown.
        let mut remaining = REMAINING.try_with(Cell::get).unwrap_or_default();
        let charged = self.limits.user(user, requests, &mut remaining);
        let _ = REMAINING.try_with(|shown| shown.set(remaining));
        charged.map_err(ApiError::Limit)
    }
}
