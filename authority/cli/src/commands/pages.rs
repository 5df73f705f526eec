//! Lists that the authority gives a page at a time.

use tonic::Status;

use crate::failure::{Exit, Failure};

/// The largest page that the authority gives.
pub(crate) const SIZE: i32 = 1000;

/// Every entry of a list. `page` asks for the page that a token names, and answers its entries and the token of the next.
///
/// # Errors
/// When the authority does not answer, or gives empty pages without end.
pub(crate) async fn all<T>(
    doing: &str,
    mut page: impl AsyncFnMut(String) -> Result<(Vec<T>, String), Status>,
) -> Result<Vec<T>, Failure> {
    let mut entries = Vec::new();
    let mut token = String::new();
    loop {
        let (page, next) = page(token)
            .await
            .map_err(|status| Failure::answered(doing, &status))?;
        if page.is_empty() && !next.is_empty() {
            let message = format!("{doing}: the authority lists pages without end");
            return Err(Failure::new(Exit::Failure, message));
        }
        entries.extend(page);
        if next.is_empty() {
            return Ok(entries);
        }
        token = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pages_are_put_together_and_empty_ones_do_not_go_on_for_ever() {
        let pages = async |token: String| {
            Ok(match token.as_str() {
                "" => (vec![1, 2], "second".to_owned()),
                _ => (vec![3], String::new()),
            })
        };
        assert_eq!(all("cannot count", pages).await.expect("three"), [1, 2, 3]);
        let endless = async |_| Ok((Vec::<u8>::new(), "more".to_owned()));
        let failure = all("cannot count", endless).await.expect_err("no end");
        assert!(failure.message.contains("without end"), "{failure}");
    }
}
