//! The authenticated caller of a request, held to the user's rate limit. Handlers get the caller only
//! from here.

use std::net::IpAddr;

use axum::http::HeaderMap;
use like_events::UserId;

use crate::app::AppState;
use crate::http::error::ApiError;

impl AppState {
    /// Returns the caller, or None for a request without credentials ([`crate::auth::Auth::caller`]).
    pub async fn caller(&self, headers: &HeaderMap, peer: IpAddr) -> Result<Option<UserId>, ApiError> {
        let user = self.auth.caller(headers, peer).await.map_err(ApiError::Auth)?;
        if let Some(user) = &user {
            self.limits.user(user).map_err(ApiError::Limit)?;
        }
        Ok(user)
    }

    /// Returns the caller of a route that needs one.
    pub async fn known_caller(&self, headers: &HeaderMap, peer: IpAddr) -> Result<UserId, ApiError> {
        let user = self.auth.known_caller(headers, peer).await.map_err(ApiError::Auth)?;
        self.limits.user(&user).map_err(ApiError::Limit)?;
        Ok(user)
    }
}
