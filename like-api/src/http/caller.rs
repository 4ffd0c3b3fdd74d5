//! The caller of a request: who it is, and whether that user may ask again so soon. The one way in
//! which handlers learn who is calling.

use axum::http::HeaderMap;
use like_events::UserId;

use crate::app::AppState;
use crate::http::error::ApiError;

impl AppState {
    /// The caller; None for one without credentials, who may read. Bad credentials are refused
    /// even where none are needed: taking them for nobody would answer for somebody else.
    pub async fn caller(&self, headers: &HeaderMap) -> Result<Option<UserId>, ApiError> {
        let user = self.auth.caller(headers).await?;
        if let Some(user) = &user {
            self.limits.user(user)?;
        }
        Ok(user)
    }

    /// The caller, who must be known.
    pub async fn known_caller(&self, headers: &HeaderMap) -> Result<UserId, ApiError> {
        let user = self.auth.known_caller(headers).await?;
        self.limits.user(&user)?;
        Ok(user)
    }
}
