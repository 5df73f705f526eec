//! An error with its causes, on one line.

use std::error::Error;
use std::fmt;

/// Shows an error and everything that it was caused by: `cannot start: cannot open x: permission denied`.
#[derive(Clone, Copy, Debug)]
pub struct ErrorChain<'a>(pub &'a dyn Error);

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            let cause = error.to_string();
            // Some libraries repeat their source in their own message.
            if !said.ends_with(&cause) {
                write!(f, ": {cause}")?;
                said = cause;
            }
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{message}")]
    struct Told {
        message: &'static str,
        source: Option<Box<Told>>,
    }

    fn told(messages: &[&'static str]) -> Told {
        let (message, causes) = messages.split_first().expect("an error");
        Told {
            message,
            source: (!causes.is_empty()).then(|| Box::new(told(causes))),
        }
    }

    #[test]
    fn every_cause_is_told_once() {
        let line = |messages| ErrorChain(&told(messages)).to_string();
        assert_eq!(line(&["cannot start"]), "cannot start");
        assert_eq!(
            line(&["cannot start", "cannot open", "denied"]),
            "cannot start: cannot open: denied"
        );
        assert_eq!(
            line(&["cannot start: denied", "denied", "os error 13"]),
            "cannot start: denied: os error 13"
        );
    }
}
