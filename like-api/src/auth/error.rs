//! Why a caller isn't accepted, in either mode of authentication.

#[derive(Debug, Clone)]
pub enum AuthError {
    /// Credentials are missing where they are required, or can't be accepted.
    Unauthenticated {
        /// The value of `WWW-Authenticate`.
        challenge: String,
        header: String,
        what: String,
    },
    /// The key that the token names can't be fetched now.
    KeysUnavailable,
}
