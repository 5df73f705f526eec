//! The form that a request must have before anybody asks who sent it (G01 to G12).
//!
//! One grammar, and what is judged is what is forwarded. What could be read two ways is refused, not normalized.

use std::time::Duration;

use countersign_core::Rejection;
use countersign_core::requirements::MethodPath;
use http::header::{CONTENT_TYPE, HOST, TE};
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderValue, Method, Uri, Version};

use super::respond::Refusal;

/// What a request is, and so what its caller takes for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Face {
    /// gRPC over HTTP/2.
    Grpc,
    /// gRPC-Web, over whichever HTTP.
    GrpcWeb,
    /// Everything else.
    Http,
}

impl Face {
    /// The face of a request of these `parts`. Of gRPC are `application/grpc` and all its subtypes, but HTTP/1.1 cannot carry it.
    /// What says several things of itself is taken by the strictest.
    pub(crate) fn of(parts: &Parts) -> Self {
        if parts.version == Version::HTTP_2 && says_grpc(&parts.headers) {
            return Self::Grpc;
        }
        let mut types = parts.headers.get_all(CONTENT_TYPE).iter();
        match (types.next(), types.next()) {
            (Some(only), None) if parts.method == Method::POST && is_of(only, b"application/grpc-web") => {
                Self::GrpcWeb
            }
            (Some(_) | None, _) => Self::Http,
        }
    }
}

/// Whether headers say that a request is gRPC.
pub(crate) fn says_grpc(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    types.any(|value| is_of(value, b"application/grpc"))
}

/// Whether `value` is this media type of gRPC's, or one of its subtypes, as Envoy tells them: gRPC-Web is none of gRPC.
fn is_of(value: &HeaderValue, media: &[u8]) -> bool {
    let rest = value.as_bytes().strip_prefix(media);
    let rest = rest.map(|rest| rest.strip_prefix(b"-text").unwrap_or(rest));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+')))
}

/// The methods of HTTP that ask for something at a path.
pub(crate) const METHODS: [Method; 7] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
    Method::OPTIONS,
];

/// The target of a request of these `parts`, with the server that it is for. HTTP/1.1 says that in a header, exactly once, and
/// perhaps in the target too (G05).
pub(crate) fn target(parts: &Parts) -> Result<Uri, Refusal> {
    match parts.version {
        Version::HTTP_2 => return Ok(parts.uri.clone()),
        Version::HTTP_11 => {}
        _ => return Err(Refusal::VersionUnsupported),
    }
    let mut hosts = parts.headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(Rejection::RequestMalformed.into());
    };
    if parts
        .uri
        .scheme()
        .is_some_and(|scheme| *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS)
    {
        return Err(Rejection::RequestMalformed.into());
    }
    let mut target = parts.uri.clone().into_parts();
    if target.path_and_query.is_none() {
        // CONNECT names a server and nothing at it.
        return Err(Refusal::NotACall);
    }
    if target.authority.is_none() {
        let authority = Authority::try_from(host.as_bytes());
        target.authority = Some(authority.map_err(|_malformed| Rejection::RequestMalformed)?);
    }
    target.scheme = Some(Scheme::HTTP);
    Uri::from_parts(target).map_err(|_malformed| Rejection::RequestMalformed.into())
}

/// Reads the form of a request that is no gRPC, of these `parts`, whose target is `uri`: something at a path (G03) of a server with
/// one name (G05).
pub(crate) fn read_plain<'a>(parts: &Parts, uri: &'a Uri) -> Result<Form<'a>, Refusal> {
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    if !METHODS.contains(&parts.method) || target == "*" {
        return Err(Refusal::NotACall);
    }
    let method = MethodPath::of_http(target)?;
    check_authority(uri.authority(), &parts.headers)?;
    if says_grpc(&parts.headers) {
        return Err(Refusal::NotGrpc);
    }
    Ok(Form {
        method,
        timeout: timeout(&parts.headers)?,
    })
}

/// What there is to know of a request of the right form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form<'a> {
    /// The method called.
    pub(crate) method: MethodPath<'a>,
    /// How long the caller waits, if it says so.
    pub(crate) timeout: Option<Duration>,
}

/// Reads the form of a request of these `parts` whose target is `uri`.
pub(crate) fn read<'a>(parts: &Parts, uri: &'a Uri) -> Result<Form<'a>, Refusal> {
    // `*` names a server and no method, so it goes with the other HTTP methods (G03).
    let path = uri.path_and_query().map_or("", |path| path.as_str());
    if parts.method != Method::POST || path == "*" {
        return Err(Refusal::NotACall);
    }
    let method = MethodPath::parse(path)?;
    check_authority(uri.authority(), &parts.headers)?;
    if !is_grpc(&parts.headers) {
        return Err(Refusal::NotGrpc);
    }
    if parts.headers.get_all(TE).iter().any(|te| te != "trailers") {
        return Err(Rejection::RequestMalformed.into());
    }
    Ok(Form {
        method,
        timeout: timeout(&parts.headers)?,
    })
}

/// Exactly one name for the server, of a form that every reader takes for the same host and port (G05).
pub(crate) fn check_authority(authority: Option<&Authority>, headers: &HeaderMap) -> Result<(), Rejection> {
    let authority = authority
        .map(Authority::as_str)
        .filter(|text| is_host_and_port(text));
    let authority = authority.ok_or(Rejection::RequestMalformed)?;
    if headers.get_all(HOST).iter().all(|host| host == authority) {
        Ok(())
    } else {
        Err(Rejection::RequestMalformed)
    }
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`: no user, no scope id, no escapes.
fn is_host_and_port(text: &str) -> bool {
    let (host_is_good, rest) = if let Some(bracketed) = text.strip_prefix('[') {
        let Some((address, rest)) = bracketed.split_once(']') else {
            return false;
        };
        (address.parse::<std::net::Ipv6Addr>().is_ok(), rest)
    } else {
        let (host, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        (!host.is_empty() && host.bytes().all(is_name), rest)
    };
    let port_is_good = match rest.strip_prefix(':') {
        None => rest.is_empty(),
        Some(port) => port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok(),
    };
    host_is_good && port_is_good
}

/// Exactly one content type, one of the two that are protobuf over gRPC (G10).
fn is_grpc(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    match (types.next(), types.next()) {
        (Some(only), None) => only == "application/grpc" || only == "application/grpc+proto",
        (None | Some(_), _) => false,
    }
}

/// The caller's deadline: 1 to 8 digits and a unit (gRPC over HTTP/2, `Timeout`), given once (G12).
pub(crate) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Rejection> {
    let mut timeouts = headers.get_all("grpc-timeout").iter();
    match (timeouts.next(), timeouts.next()) {
        (None, _) => Ok(None),
        (Some(only), None) => parse_timeout(only).map(Some).ok_or(Rejection::RequestMalformed),
        (Some(_), Some(_)) => Err(Rejection::RequestMalformed),
    }
}

fn parse_timeout(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // At most eight digits: no product below overflows.
    let amount: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    match unit {
        b'H' => Some(Duration::from_secs(amount * 60 * 60)),
        b'M' => Some(Duration::from_secs(amount * 60)),
        b'S' => Some(Duration::from_secs(amount)),
        b'm' => Some(Duration::from_millis(amount)),
        b'u' => Some(Duration::from_micros(amount)),
        b'n' => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
