//! The stream, as an authority of the test drives it.
