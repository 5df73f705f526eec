//! The layer: judges a request before the service sees it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use countersign_core::bearer;
use countersign_core::binding::PeerCertificate;
use countersign_core::requirements::MethodPath;
use countersign_mtls::Peer;
use countersign_verifier::identity::strip_reserved;
use countersign_verifier::verifier::{Admission, Admitted, Denied, Question, Verifier};
use countersign_verifier::watch::TokenWatch;
use countersign_wire::status::{self, Disclosure};
use futures_util::FutureExt as _;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{Extensions, HeaderValue, Request, Response, Uri};
use tower::{Layer, Service};

use crate::body::{GuardedBody, Over};

/// Where the caller's certificate is, in the extensions of a request.
type Find = Arc<dyn Fn(&Extensions) -> Option<PeerCertificate> + Send + Sync>;

/// What all calls have in common.
struct Shared {
    verifier: Arc<Verifier>,
    disclosure: Disclosure,
    keeps_token: bool,
    peer_certificate: Option<Find>,
}

/// Verifies every call of the services under it. Clones share what they verify with.
#[derive(Clone)]
pub struct VerifyLayer(Arc<Shared>);

impl fmt::Debug for VerifyLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifyLayer")
            .field("verifier", &self.0.verifier)
            .finish_non_exhaustive()
    }
}

impl VerifyLayer {
    /// A layer that asks `verifier`. The service does not see tokens, and callers are told no more than whether it is the token
    /// or its scope.
    #[must_use]
    pub fn new(verifier: Arc<Verifier>) -> Self {
        Self(Arc::new(Shared {
            verifier,
            disclosure: Disclosure::Coarse,
            keeps_token: false,
            peer_certificate: None,
        }))
    }

    /// Callers are told the exact reason: for services whose callers are all one's own.
    #[must_use]
    pub fn disclose_reasons(self) -> Self {
        self.with(|shared| shared.disclosure = Disclosure::Precise)
    }

    /// The service sees the `authorization` of its callers.
    #[must_use]
    pub fn keep_token(self) -> Self {
        self.with(|shared| shared.keeps_token = true)
    }

    /// Where the caller's certificate is, which must be verified and not be over: as a [`PeerCertificate`], or as the SHA-256 of its
    /// DER where no token is bound to a SPIFFE ID. By default it is where `countersign_mtls` leaves it.
    #[must_use]
    pub fn peer_certificate<C: Into<PeerCertificate>>(
        self,
        find: impl Fn(&Extensions) -> Option<C> + Send + Sync + 'static,
    ) -> Self {
        let find = move |extensions: &Extensions| find(extensions).map(Into::into);
        self.with(|shared| shared.peer_certificate = Some(Arc::new(find)))
    }

    fn with(&self, change: impl FnOnce(&mut Shared)) -> Self {
        let mut shared = Shared {
            verifier: Arc::clone(&self.0.verifier),
            peer_certificate: self.0.peer_certificate.clone(),
            ..*self.0
        };
        change(&mut shared);
        Self(Arc::new(shared))
    }
}

impl<S> Layer<S> for VerifyLayer {
    type Service = Verify<S>;

    fn layer(&self, inner: S) -> Verify<S> {
        Verify {
            inner,
            shared: Arc::clone(&self.0),
        }
    }
}

/// A service whose callers are verified.
#[derive(Clone)]
pub struct Verify<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S: fmt::Debug> fmt::Debug for Verify<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verify")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

/// What [`Verify`] answers with.
pub type VerifyFuture<B, E> = Pin<Box<dyn Future<Output = Result<Response<GuardedBody<B>>, E>> + Send>>;

impl<S, A, B> Service<Request<A>> for Verify<S>
where
    S: Service<Request<A>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    A: Send + 'static,
{
    type Response = Response<GuardedBody<B>>;
    type Error = S::Error;
    type Future = VerifyFuture<B, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        // The one that was asked whether it is ready goes, and its clone is asked again.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let shared = Arc::clone(&self.shared);
        let (mut parts, body) = request.into_parts();
        Box::pin(async move {
            let over = match shared.judge(&parts).await {
                Ok(let_in) => shared.prepare(&mut parts, let_in),
                Err(denied) => return Ok(refuse(&denied, shared.disclosure)),
            };
            let request = Request::from_parts(parts, body);
            let Some(mut over) = over else {
                let response = inner.call(request).await?;
                return Ok(response.map(|body| GuardedBody::new(body, None, shared.disclosure)));
            };
            tokio::select! {
                biased;
                denied = &mut over => Ok(refuse(&denied, shared.disclosure)),
                response = inner.call(request) => {
                    Ok(response?.map(|body| GuardedBody::new(body, Some(over), shared.disclosure)))
                }
            }
        })
    }
}

/// A request that may pass, and the certificate that it was judged with.
struct LetIn {
    admission: Admission,
    peer_certificate: Option<PeerCertificate>,
}

impl Shared {
    async fn judge(&self, request: &Parts) -> Result<LetIn, Denied> {
        let method =
            method(&request.uri).inspect_err(|denied| self.verifier.count_refused(denied.rejection))?;
        let peer_certificate = self.peer_certificate(&request.extensions);
        let fields = request.headers.get_all(AUTHORIZATION);
        let question = Question {
            token: bearer::from_authorization(fields.iter().map(HeaderValue::as_bytes)),
            method: Some(method),
            peer_certificate: peer_certificate.as_ref(),
        };
        let decision = self.verifier.decide_patiently(&question).await;
        let admission = decision.verdict.inspect_err(|denied| {
            let reason = denied.rejection.reason();
            tracing::info!(%method, reason, epoch = decision.epoch, "a call is refused");
        })?;
        Ok(LetIn {
            admission,
            peer_certificate,
        })
    }

    /// An open connection may be older than the certificate that was shown on it.
    fn peer_certificate(&self, extensions: &Extensions) -> Option<PeerCertificate> {
        if let Some(find) = &self.peer_certificate {
            return find(extensions);
        }
        let now = self.verifier.trust().now().ok()?;
        let identity = extensions.get::<Peer>()?.identity.as_ref()?;
        (!identity.is_expired(now)).then(|| identity.certificate())
    }

    /// Tells the service who calls. When the call must end, if ever.
    fn prepare(&self, request: &mut Parts, let_in: LetIn) -> Option<Over> {
        let headers = &mut request.headers;
        strip_reserved(headers);
        if !self.keeps_token {
            headers.remove(AUTHORIZATION);
        }
        let Admission::Token(admitted) = let_in.admission else {
            return None;
        };
        admitted.identity().insert_into(headers);
        let uri = request.uri.clone();
        request.extensions.insert(admitted.token().clone());
        Some(self.watch(admitted, uri, let_in.peer_certificate))
    }

    fn watch(&self, admitted: Admitted, uri: Uri, peer_certificate: Option<PeerCertificate>) -> Over {
        TokenWatch {
            verifier: Arc::clone(&self.verifier),
            admitted,
            uri,
            peer_certificate,
            renewal: None,
        }
        .refused()
        .boxed()
    }
}

fn method(uri: &Uri) -> Result<MethodPath<'_>, Denied> {
    let path = uri.path_and_query().map_or("", |path| path.as_str());
    MethodPath::parse(path).map_err(Denied::from)
}

fn refuse<B>(denied: &Denied, disclosure: Disclosure) -> Response<GuardedBody<B>> {
    let mut response: Response<GuardedBody<B>> = denied.status(disclosure).into_http();
    if let Some(challenge) = status::challenge(denied.rejection) {
        response
            .headers_mut()
            .insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    }
    response
}
