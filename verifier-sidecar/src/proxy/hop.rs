//! What a request or an answer says to its neighbour alone, and what of that may not be said at all (RFC 9110, section 7.6.1).

use countersign_core::Rejection;
use countersign_wire::status::Failure;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, HOST, HeaderName, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method};

use super::respond::Refusal;

/// Headers that are for the neighbour whether or not `Connection` names them. `Expect` is among them because it is us who
/// answer it, to callers of HTTP/1.1; `TE` is not, of which something goes on.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    EXPECT,
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    TRANSFER_ENCODING,
    UPGRADE,
];

/// What `Connection` may not name: whoever removes it makes another request of it.
const NOT_REMOVABLE: [HeaderName; 3] = [HOST, CONTENT_LENGTH, CONTENT_TYPE];

/// Whether a request over HTTP/1.1 with these headers asks for no more than can be done.
///
/// # Errors
/// Another protocol is not changed to. That of HTTP/2, which clients offer with any request, they do without.
pub(super) fn check(headers: &HeaderMap) -> Result<(), Refusal> {
    let asks = |value: &HeaderValue| {
        let text = value.to_str().unwrap_or_default();
        !text
            .split(',')
            .all(|protocol| protocol.trim().eq_ignore_ascii_case("h2c"))
    };
    if headers.get_all(UPGRADE).iter().any(asks) {
        return Err(Refusal::UpgradeUnsupported);
    }
    let may_be_named = |name: HeaderName| !NOT_REMOVABLE.contains(&name);
    if named(headers).all(|name| name.is_some_and(may_be_named)) {
        Ok(())
    } else {
        Err(Rejection::RequestMalformed.into())
    }
}

/// Removes what is for the neighbour alone. Of `TE` goes on that trailers are taken.
pub(super) fn strip(headers: &mut HeaderMap) {
    let takes_trailers = headers.get_all(TE).iter().any(says_trailers);
    let named: Vec<_> = named(headers).flatten().collect();
    for name in named.iter().chain(&HOP_BY_HOP).chain([&TE]) {
        headers.remove(name);
    }
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// The same for trailers (RFC 9110, section 6.5.1), where `TE` says nothing. With any of it left HTTP/2 would send none of them (RFC 9113, section
/// 8.2.2).
pub(super) fn strip_trailers(trailers: &mut HeaderMap) {
    strip(trailers);
    trailers.remove(TE);
}

/// Says of a request of HTTP/2 at `authority` in the headers what HTTP/1.1 says there (RFC 9113, sections 8.2.3 and 8.3.1): whom it is for, and
/// cookies in one field.
///
/// # Errors
/// Its length is said twice. HTTP/1.1 frames bodies by it.
pub(super) fn to_http1(headers: &mut HeaderMap, authority: Option<&Authority>) -> Result<(), Refusal> {
    if headers.get_all(CONTENT_LENGTH).iter().count() > 1 {
        return Err(Rejection::RequestMalformed.into());
    }
    let host = authority.and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    headers.insert(HOST, host.ok_or(Rejection::RequestMalformed)?);
    let cookies: Vec<_> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if cookies.len() > 1 {
        let one = HeaderValue::from_bytes(&cookies.join(&b"; "[..]));
        headers.insert(COOKIE, one.map_err(|_impossible| Failure::Internal)?);
    }
    Ok(())
}

/// Says how the body of a request of HTTP/1.1 is framed, where nobody has: one of no stated length comes in chunks, whatever the method (RFC
/// 9112, section 6.3), which the library would leave out of GET and HEAD; and where a method usually has one, there being none is said
/// (RFC 9110, section 8.6).
pub(super) fn frame(headers: &mut HeaderMap, method: &Method, is_empty: bool) {
    if headers.contains_key(CONTENT_LENGTH) {
        return;
    }
    if !is_empty {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    } else if [Method::POST, Method::PUT, Method::PATCH].contains(method) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
}

/// The names in `Connection`; nothing in the place of what is no name.
fn named(headers: &HeaderMap) -> impl Iterator<Item = Option<HeaderName>> {
    let values = headers.get_all(CONNECTION).iter();
    let names = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let names = names.map(<[u8]>::trim_ascii).filter(|name| !name.is_empty());
    names.map(|name| HeaderName::from_bytes(name).ok())
}

fn says_trailers(value: &HeaderValue) -> bool {
    let mut codings = value.as_bytes().split(|byte| *byte == b',');
    codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let fields = fields.iter().map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            (name, HeaderValue::from_static(value))
        });
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn what_is_for_the_neighbour_does_not_go_on() {
        let mut all = headers(&[
            ("connection", "keep-alive, X-One"),
            ("connection", "x-two,,te"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic x"),
            ("proxy-connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("expect", "100-continue"),
            ("te", "gzip, Trailers;q=1"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-three", "3"),
            ("trailer", "checksum"),
        ]);
        strip(&mut all);
        let left: Vec<_> = all.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["x-three", "trailer"]);
        let mut taking = headers(&[("te", "gzip,trailers"), ("connection", "te")]);
        strip(&mut taking);
        assert_eq!(taking, headers(&[("te", "trailers")]));
    }

    /// G28: `Upgrade` goes nowhere, and only that to HTTP/2 is what clients can do without.
    #[test]
    fn nobody_changes_to_another_protocol() {
        for (value, allowed) in [
            ("h2c", true),
            ("H2C", true),
            ("websocket", false),
            ("h2c, websocket", false),
            ("TLS/1.0", false),
            ("", false),
        ] {
            let expected = if allowed {
                Ok(())
            } else {
                Err(Refusal::UpgradeUnsupported)
            };
            assert_eq!(check(&headers(&[("upgrade", value)])), expected, "{value}");
        }
    }

    /// What is judged is what is forwarded: a caller does not have removed what makes his request what it is.
    #[test]
    fn connection_does_not_name_what_is_needed() {
        for (value, allowed) in [
            ("close", true),
            ("keep-alive, te, x-anything", true),
            ("", true),
            ("host", false),
            ("close, Content-Length", false),
            ("content-type", false),
            ("a b", false),
        ] {
            assert_eq!(
                check(&headers(&[("connection", value)])).is_ok(),
                allowed,
                "{value}"
            );
        }
    }
}
