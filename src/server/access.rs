//! Who may come in, and from which page: tokens, sessions, roles, same-site checks.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Form, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Json};
use rand::Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

use super::problem::Problem;
use super::{Dashboard, assets};

/// The name of the session's cookie.
const COOKIE: &str = "racealpha_session";
/// How long a login lasts.
const SESSION_LASTS: Duration = Duration::from_secs(12 * 3600);
/// Logins remembered at once; the oldest goes.
const SESSIONS_MAX: usize = 256;
/// How long a wrong token waits for its answer, and how many wait at once.
const WRONG_TOKEN_DELAY: Duration = Duration::from_secs(1);
const WRONG_TOKENS_WAITING_MAX: usize = 16;
/// What scripts of other sites cannot send without our leave.
const OWN_HEADER: &str = "x-racealpha";
const FROM_ELSEWHERE: &str = "the request comes from a page of another site";

/// The secrets that open the dashboard.
#[derive(Clone, Default)]
pub struct Tokens {
    /// May do everything.
    pub operator: Option<String>,
    /// May look.
    pub viewer: Option<String>,
}

impl Tokens {
    /// Whether a token is needed at all.
    pub fn is_closed(&self) -> bool {
        self.operator.is_some()
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("is_closed", &self.is_closed()).finish_non_exhaustive()
    }
}

/// What a visitor may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Role {
    Viewer,
    Operator,
}

type Hash = [u8; 32];

/// Only hashes are kept: of equal length whatever is compared, and of no use to who reads the memory.
pub(super) struct Access {
    operator: Option<Hash>,
    viewer: Option<Hash>,
    sessions: Mutex<HashMap<Hash, (Role, Instant)>>,
    waiting: Semaphore,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").finish_non_exhaustive()
    }
}

fn hash(text: &str) -> Hash {
    Sha256::digest(text).into()
}

impl Access {
    pub(super) fn new(tokens: &Tokens) -> Self {
        Self {
            operator: tokens.operator.as_deref().map(hash),
            viewer: tokens.viewer.as_deref().map(hash),
            sessions: Mutex::default(),
            waiting: Semaphore::new(WRONG_TOKENS_WAITING_MAX),
        }
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<Hash, (Role, Instant)>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a token allows; both are compared, always.
    fn role_of_token(&self, token: &str) -> Option<Role> {
        let given = hash(token);
        let is = |known: Option<Hash>| bool::from(known.unwrap_or_default().ct_eq(&given)) && known.is_some();
        let (operator, viewer) = (is(self.operator), is(self.viewer));
        operator.then_some(Role::Operator).or_else(|| viewer.then_some(Role::Viewer))
    }

    /// What the sender of these headers may do; without an operator's token everybody on this machine may do all.
    fn role(&self, headers: &HeaderMap) -> Option<Role> {
        if self.operator.is_none() {
            return Some(Role::Operator);
        }
        if let Some(token) = bearer(headers) {
            return self.role_of_token(token);
        }
        let (role, since) = *self.sessions().get(&hash(cookie(headers)?))?;
        (since.elapsed() < SESSION_LASTS).then_some(role)
    }

    /// A new session's secret.
    fn begin_session(&self, role: Role) -> String {
        let mut secret = [0_u8; 32];
        rand::rng().fill_bytes(&mut secret);
        let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut sessions = self.sessions();
        sessions.retain(|_, (_, since)| since.elapsed() < SESSION_LASTS);
        if sessions.len() >= SESSIONS_MAX
            && let Some(oldest) = sessions.iter().min_by_key(|(_, (_, since))| *since).map(|(key, _)| *key)
        {
            sessions.remove(&oldest);
        }
        sessions.insert(hash(&secret), (role, Instant::now()));
        secret
    }

    /// Makes guessing slow: each wrong token waits, and a bounded number of them.
    async fn slow_down(&self) -> Result<(), Problem> {
        let Ok(_place) = self.waiting.try_acquire() else {
            return Err(Problem::busy("too many wrong tokens at once; try again in a few seconds"));
        };
        tokio::time::sleep(WRONG_TOKEN_DELAY).await;
        Ok(())
    }
}

fn text(headers: &HeaderMap, name: impl header::AsHeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = text(headers, header::AUTHORIZATION)?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|value| value.split(';'))
        .find_map(|pair| pair.trim().split_once('=').filter(|(name, _)| *name == COOKIE).map(|(_, value)| value))
}

impl Role {
    /// Refuses a reader what would start work.
    pub(super) fn may_start(self) -> Result<(), Problem> {
        let detail = "there is no such report of the lake as it is, and this token may not have one made";
        match self {
            Self::Operator => Ok(()),
            Self::Viewer => Err(Problem::new(StatusCode::FORBIDDEN, detail)),
        }
    }
}

/// Lets in who has a session or a token; a viewer may only read.
pub(super) async fn guard(State(dashboard): State<Dashboard>, mut request: Request, next: Next) -> Response {
    let access = &dashboard.access;
    let Some(role) = access.role(request.headers()) else {
        if bearer(request.headers()).is_some()
            && let Err(problem) = access.slow_down().await
        {
            return problem.into();
        }
        if request.uri().path() == "/" {
            return Redirect::to("/login").into_response();
        }
        let mut response: Response =
            Problem::new(StatusCode::UNAUTHORIZED, "log in at /login, or send Authorization: Bearer TOKEN").into();
        response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        return response;
    };
    let path = request.uri().path();
    let reads = request.method() == Method::GET || request.method() == Method::HEAD;
    // A query reads, though its text travels in a body.
    let is_open = reads || path == "/api/query" || path == "/logout";
    if role == Role::Viewer && !is_open {
        return Problem::new(StatusCode::FORBIDDEN, "this token may look and not change anything").into();
    }
    request.extensions_mut().insert(role);
    next.run(request).await
}

/// Refuses what a page of another site could make a browser send.
pub(super) async fn same_site(State(dashboard): State<Dashboard>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let (asked, forwarded) = (text(headers, header::HOST).unwrap_or_default(), text(headers, "x-forwarded-host"));
    // Any page can send the second one from a name of its own that points here, so both count.
    let is_local = is_loopback(asked) && forwarded.is_none_or(is_loopback);
    if dashboard.access.operator.is_none() && !is_local {
        let detail = "without RACEALPHA_TOKEN the dashboard answers to localhost only";
        return Problem::new(StatusCode::FORBIDDEN, detail).into();
    }
    let host = forwarded.unwrap_or(asked);
    // Browsers say where a request comes from; what a page of ours or a typed address asks for is ours.
    let is_elsewhere = text(headers, "sec-fetch-site").is_some_and(|site| !["same-origin", "none"].contains(&site));
    let path = request.uri().path();
    if is_elsewhere && bearer(headers).is_none() && (path.starts_with("/api/") || path == "/metrics") {
        return Problem::new(StatusCode::FORBIDDEN, FROM_ELSEWHERE).into();
    }
    let is_socket = headers.contains_key(header::SEC_WEBSOCKET_KEY);
    if request.method() == Method::POST || is_socket {
        let same =
            |origin: &str| origin.parse::<Uri>().ok().and_then(|uri| uri.authority().map(|a| a.as_str() == host));
        if text(headers, header::ORIGIN).is_some_and(|origin| same(origin) != Some(true)) {
            return Problem::new(StatusCode::FORBIDDEN, FROM_ELSEWHERE).into();
        }
        let form = ["/login", "/logout"].contains(&path);
        if !is_socket && !form && bearer(headers).is_none() && !headers.contains_key(OWN_HEADER) {
            return Problem::new(StatusCode::FORBIDDEN, "send the header X-RaceAlpha: 1 with a POST").into();
        }
    }
    next.run(request).await
}

/// Whether a Host header names this machine itself.
fn is_loopback(host: &str) -> bool {
    let name = host.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default();
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Who asks.
#[derive(Debug, Serialize)]
pub(super) struct Session {
    role: Role,
    login_required: bool,
    version: &'static str,
}

pub(super) async fn session(State(dashboard): State<Dashboard>, Extension(role): Extension<Role>) -> Json<Session> {
    let login_required = dashboard.access.operator.is_some();
    Json(Session { role, login_required, version: env!("CARGO_PKG_VERSION") })
}

#[derive(Deserialize)]
pub(super) struct Login {
    token: String,
}

/// A token for a session.
pub(super) async fn login(
    State(dashboard): State<Dashboard>,
    headers: HeaderMap,
    Form(login): Form<Login>,
) -> Result<Response, Problem> {
    let Some(role) = dashboard.access.role_of_token(&login.token) else {
        dashboard.access.slow_down().await?;
        return Ok((StatusCode::UNAUTHORIZED, assets::login().await).into_response());
    };
    let secret = dashboard.access.begin_session(role);
    let is_tls = text(&headers, "x-forwarded-proto") == Some("https");
    let cookie = format!(
        "{COOKIE}={secret}; HttpOnly; SameSite=Strict; Path=/; Max-Age={}{}",
        SESSION_LASTS.as_secs(),
        if is_tls { "; Secure" } else { "" }
    );
    Ok(([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response())
}

/// Ends the session.
pub(super) async fn logout(State(dashboard): State<Dashboard>, headers: HeaderMap) -> Response {
    if let Some(secret) = cookie(&headers) {
        dashboard.access.sessions().remove(&hash(secret));
    }
    let gone = format!("{COOKIE}=; HttpOnly; SameSite=Strict; Path=/; Max-Age=0");
    ([(header::SET_COOKIE, gone)], Redirect::to("/login")).into_response()
}
