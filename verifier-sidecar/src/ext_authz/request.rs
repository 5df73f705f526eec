//! The question in a `CheckRequest`: the request that came to Envoy, put together again, so that the proxy's own grammar reads
//! it (I-18).
//!
//! A gRPC call has the form that the proxy takes, or it is refused. Other HTTP requests have a path with one reading
//! ([`MethodPath::of_http`]). Which of the two a request is changes how a refusal is written, and not what its path asks for: a
//! call that is dressed up as something else meets the same rule.

use std::mem;
use std::net::SocketAddr;

use bytes::Bytes;
use countersign_core::Rejection;
use countersign_core::requirements::MethodPath;
use countersign_core::spiffe::SpiffeId;
use countersign_proto::envoy::config::core::v3::address::Address as Place;
use countersign_proto::envoy::config::core::v3::socket_address::PortSpecifier;
use countersign_proto::envoy::config::core::v3::{Address, HeaderValue as RawHeader};
use countersign_proto::envoy::service::auth::v3::CheckRequest;
use countersign_proto::envoy::service::auth::v3::attribute_context::HttpRequest;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use crate::access_log::decided::Request as Told;
use crate::proxy::{Refusal, request};

/// What Envoy asks about.
#[derive(Debug)]
pub(super) struct Asked {
    /// How a refusal of it is written.
    pub(super) kind: Kind,
    /// Where the caller is, as Envoy says.
    pub(super) remote: Option<SocketAddr>,
    /// The caller's certificate as Envoy writes it. Empty without one.
    pub(super) certificate: String,
    parts: Parts,
    uri: Uri,
}

/// What a request takes for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A gRPC status.
    Grpc,
    /// An HTTP status.
    Http,
}

impl Asked {
    /// Reads `check`.
    ///
    /// # Errors
    /// What no request that came to Envoy looks like is [`Rejection::RequestMalformed`] (G48), and told in the form that goes with
    /// it.
    pub(super) fn read(check: CheckRequest) -> Result<Self, (Rejection, Kind)> {
        let attributes = check.attributes.unwrap_or_default();
        let http = attributes.request.and_then(|request| request.http);
        let mut http = http.unwrap_or_default();
        let kind = Kind::of(&http);
        let source = attributes.source.unwrap_or_default();
        let mut read = || {
            let uri = uri(&http)?;
            let (mut parts, ()) = http::Request::new(()).into_parts();
            parts.method = Method::from_bytes(http.method.as_bytes()).ok()?;
            parts.headers = headers(&mut http)?;
            Some((parts, uri))
        };
        let (parts, uri) = read().ok_or((Rejection::RequestMalformed, kind))?;
        Ok(Self {
            kind,
            remote: source.address.and_then(socket_address),
            certificate: source.certificate,
            parts,
            uri,
        })
    }

    /// What is called.
    ///
    /// # Errors
    /// What the proxy refuses of calls, and of other requests what has no path that all servers read in one way.
    pub(super) fn method(&self) -> Result<MethodPath<'_>, Refusal> {
        match self.kind {
            Kind::Grpc => Ok(request::read(&self.parts, &self.uri)?.method),
            Kind::Http => Ok(request::read_plain(&self.parts, &self.uri)?.method),
        }
    }

    /// What the access log tells of it: with whose certificate it came, and the pattern by which its method was found.
    pub(super) const fn told<'a>(&'a self, peer: Option<&'a SpiffeId>, route: Option<&'a str>) -> Told<'a> {
        Told {
            method: &self.parts.method,
            uri: &self.uri,
            headers: &self.parts.headers,
            remote: self.remote,
            peer,
            route,
        }
    }

    /// Its headers.
    pub(super) const fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }
}

impl Kind {
    /// As Envoy tells them apart: of gRPC are `application/grpc` and all its subtypes. gRPC-Web is none of them.
    fn of(http: &HttpRequest) -> Self {
        let is_grpc = |value: &[u8]| {
            let rest = value.strip_prefix(b"application/grpc");
            rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+')))
        };
        let raw = raw_headers(http).iter();
        let raw = raw.map(|header| (&header.key, raw_value(header).unwrap_or_default()));
        let joined = http.headers.iter();
        let joined = joined.map(|entry| (&entry.key, entry.value.as_bytes()));
        let mut all = raw.chain(joined);
        if all.any(|(name, value)| CONTENT_TYPE == name.as_str() && is_grpc(value)) {
            Self::Grpc
        } else {
            Self::Http
        }
    }
}

/// The target, if it is one as it stands: the library for URIs would drop a fragment.
fn uri(http: &HttpRequest) -> Option<Uri> {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
    if !http.path.bytes().all(is_plain) {
        return None;
    }
    let uri = Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(http.host.as_str())
        .path_and_query(http.path.as_str());
    uri.build().ok()
}

/// The headers, from whichever of the two forms Envoy was told to use. Pseudo-headers only say again what is said already.
fn headers(http: &mut HttpRequest) -> Option<HeaderMap> {
    let raw = http.header_map.take().unwrap_or_default().headers;
    let joined = mem::take(&mut http.headers);
    if !raw.is_empty() && !joined.is_empty() {
        // Whichever of them is judged, the service may see the other.
        return None;
    }
    let mut headers = HeaderMap::try_with_capacity(raw.len().max(joined.len())).ok()?;
    for header in raw {
        raw_value(&header)?;
        let value = if header.value.is_empty() {
            header.raw_value
        } else {
            header.value.into()
        };
        match field(http, &header.key, value)? {
            Field::Pseudo => {}
            Field::Header(name, value) => {
                headers.append(name, value);
            }
        }
    }
    for entry in joined {
        match field(http, &entry.key, entry.value.into())? {
            Field::Pseudo => {}
            // Envoy joins what comes twice, so whatever wrote this is not Envoy.
            Field::Header(name, _) if headers.contains_key(&name) => return None,
            Field::Header(name, value) => {
                headers.insert(name, value);
            }
        }
    }
    Some(headers)
}

fn raw_headers(http: &HttpRequest) -> &[RawHeader] {
    http.header_map.as_ref().map_or(&[], |map| &map.headers)
}

/// The one value that a header has.
fn raw_value(header: &RawHeader) -> Option<&[u8]> {
    match (header.raw_value.as_ref(), header.value.as_bytes()) {
        (only, b"") | (b"", only) => Some(only),
        _ => None,
    }
}

/// A field of the request.
enum Field {
    /// One that says again what the request says already.
    Pseudo,
    Header(HeaderName, HeaderValue),
}

fn field(http: &HttpRequest, name: &str, value: Bytes) -> Option<Field> {
    let agrees = match name {
        ":method" => http.method.as_bytes() == value,
        ":path" => http.path.as_bytes() == value,
        ":authority" => http.host.as_bytes() == value,
        other => other.starts_with(':'),
    };
    if agrees {
        return Some(Field::Pseudo);
    }
    // A pseudo-header that does not agree is no name either.
    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
    Some(Field::Header(name, HeaderValue::from_maybe_shared(value).ok()?))
}

fn socket_address(address: Address) -> Option<SocketAddr> {
    let Place::SocketAddress(address) = address.address?;
    let port = address
        .port_specifier
        .map(|PortSpecifier::PortValue(port)| port)?;
    let port = u16::try_from(port).ok()?;
    Some(SocketAddr::new(address.address.parse().ok()?, port))
}
