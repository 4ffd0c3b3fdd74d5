//! The text of an error for people, in one line.

/// Returns the error with its causes, each once and without the line of PostgreSQL's source. `{:#}` repeats
/// a cause that its error's own text contains, as sqlx's does.
pub fn error_text(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = match cause.downcast_ref() {
            Some(sqlx::Error::Database(database)) => database.message().to_owned(),
            _ => cause.to_string(),
        };
        // Its message with the line, after itself.
        let repeats = |last: &String| last.ends_with(&text) || text.starts_with(&format!("{last} at line "));
        if !parts.last().is_some_and(repeats) {
            parts.push(text);
        }
    }
    parts.join(": ").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn cause_is_named_once() {
        let error = anyhow::anyhow!("refused").context("no connection: refused");
        let error = Err::<(), _>(error).context("kafka_offset").unwrap_err();
        assert_eq!(error_text(&error), "kafka_offset: no connection: refused");
    }
}
