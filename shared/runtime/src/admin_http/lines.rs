//! How lines of a request end: with CR LF, as HTTP/1.1 says.
//!
//! hyper also takes a bare LF for the end of a line, where others see one line go on (H13). So a bare LF arrives at it as
//! NUL, which it refuses wherever it stands.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// Reads a request from `inner`.
pub(super) struct StrictLines<R> {
    inner: R,
    last: u8,
}

impl<R> StrictLines<R> {
    pub(super) const fn new(inner: R) -> Self {
        Self { inner, last: 0 }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for StrictLines<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        for byte in buffer.filled_mut().iter_mut().skip(before) {
            let is_bare = *byte == b'\n' && self.last != b'\r';
            self.last = *byte;
            if is_bare {
                *byte = 0;
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    /// H13: whether an LF is bare does not depend on where a read ends.
    #[tokio::test]
    async fn only_a_bare_line_feed_is_replaced() {
        let text: &[u8] = b"\na\r\nb\nc\n\r\n\r\r\n\n";
        for cut in 0..text.len() {
            let (first, second) = text.split_at(cut);
            let mut read = Vec::new();
            let mut lines = StrictLines::new(first.chain(second));
            lines.read_to_end(&mut read).await.expect("read");
            assert_eq!(read, b"\0a\r\nb\0c\0\r\n\r\r\n\0", "{cut}");
        }
    }
}
