//! Why a caller isn't accepted, in either mode of authentication.

/// The errors of [`super::Auth`].
#[derive(Debug, Clone)]
pub enum AuthError {
    /// Credentials are missing where they are required, or can't be accepted.
    Unauthenticated {
        /// The value of `WWW-Authenticate`.
        challenge: String,
        /// The header at fault.
        header: String,
        /// What is wrong with it.
        what: String,
    },
    /// The key that the token names can't be fetched now.
    KeysUnavailable,
}
