//! The dashboard and its API: HTTP in, the pipeline's commands out. Pages are files inside the binary.

mod access;
mod actions;
mod assets;
mod connections;
mod health;
mod jobs;
mod live;
mod look;
mod problem;
mod rows;
mod schedule;
mod socket;
mod tables;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderName, HeaderValue, Response, header};
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{DefaultPredicate, NotForContentType, Predicate};

use access::Access;
pub use access::Tokens;
use jobs::Jobs;
pub use schedule::{Schedule, ScheduleError};

use crate::pipeline::Context;

/// Bytes of a request's body; SQL and lists of tables are far smaller.
const BODY_BYTES_MAX: usize = 256 << 10;
/// Requests worked on at once; more wait at the door.
const REQUESTS_MAX: usize = 256;
/// How long a request may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long requests under way, and then the cancelled run, get at the end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// What browsers may do with our pages: nothing from elsewhere, nothing inline, no frames.
const CONTENT_POLICY: &str = "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'; object-src 'none'";

/// How the dashboard is served.
#[derive(Debug)]
pub struct ServeOptions {
    /// Where to listen.
    pub address: SocketAddr,
    /// Who may come in.
    pub tokens: Tokens,
    /// When to rebuild.
    pub schedule: Option<Schedule>,
}

/// Why the dashboard could not be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The world may not come in without a token.
    #[error(
        "without RACEALPHA_TOKEN the dashboard listens on loopback only, since it can replace production tables; set the token or leave out --host {0}"
    )]
    Open(std::net::IpAddr),
    /// The address is taken or not ours.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
}

/// What every handler works with.
#[derive(Debug, Clone)]
struct Dashboard(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    context: Context,
    access: Access,
    jobs: Jobs,
    schedule: Option<Schedule>,
    /// Queries and exports at once.
    reads: Semaphore,
    /// Sockets at once.
    sockets: Arc<Semaphore>,
}

impl std::ops::Deref for Dashboard {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// Serves the dashboard until the context is cancelled; `ready` is called with the address once it listens.
///
/// # Errors
/// [`ServeError`].
pub async fn serve(
    context: Context,
    options: ServeOptions,
    ready: impl FnOnce(SocketAddr) + Send,
) -> Result<(), ServeError> {
    if !options.address.ip().is_loopback() && !options.tokens.is_closed() {
        return Err(ServeError::Open(options.address.ip()));
    }
    let listen = |source| ServeError::Listen { address: options.address, source };
    let listener = TcpListener::bind(options.address).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let cancel = context.cancel.clone();
    let dashboard = Dashboard(Arc::new(Parts {
        access: Access::new(&options.tokens),
        jobs: Jobs::new(context.clone()),
        schedule: options.schedule,
        reads: Semaphore::new(rows::READS_MAX),
        sockets: Arc::new(Semaphore::new(socket::SOCKETS_MAX)),
        context,
    }));
    let clock = tokio::spawn(schedule::keep(dashboard.clone()));
    ready(address);
    connections::serve(listener, router(dashboard.clone()), &cancel).await;
    clock.abort();
    dashboard.jobs.ended(SHUTDOWN_TIMEOUT).await;
    Ok(())
}

fn router(dashboard: Dashboard) -> Router {
    // Parquet and Arrow files are what they are.
    let compressed = DefaultPredicate::new().and(NotForContentType::const_new("application/vnd."));
    let api = Router::new()
        .route("/session", get(access::session))
        .route("/status", get(look::status))
        .route("/pipeline", get(look::pipeline))
        .route("/runs", get(look::runs))
        .route("/runs/{id}", get(look::run))
        .route("/features", get(look::features))
        .route("/logs", get(look::logs))
        .route("/tables/{table}", get(tables::table))
        .route("/tables/{table}/columns/{column}", get(tables::column))
        .route("/validate", get(actions::validation).post(actions::validate))
        .route("/preview", get(actions::previewed).post(actions::preview))
        .route("/pull", post(actions::pull))
        .route("/transform", post(actions::transform))
        .route("/push", post(actions::push))
        .route("/rollback", post(actions::rollback))
        .route("/rebuild", post(actions::rebuild))
        .route("/cancel", post(actions::cancel))
        .route("/query", post(rows::query))
        .route("/export/{table}", get(rows::export))
        .route("/openapi.json", get(assets::openapi))
        .fallback(problem::no_such_route);
    Router::new()
        .nest("/api", api)
        .route("/ws/progress", get(socket::progress))
        .route("/metrics", get(health::metrics))
        .route("/", get(assets::index))
        .route("/logout", post(access::logout))
        .route_layer(axum::middleware::from_fn_with_state(dashboard.clone(), access::guard))
        .route("/login", get(assets::login).post(access::login))
        .route("/assets/{*file}", get(assets::file))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .fallback(problem::no_such_route)
        .method_not_allowed_fallback(problem::wrong_method)
        .layer(axum::middleware::from_fn(headers))
        .layer(axum::middleware::from_fn_with_state(dashboard.clone(), access::same_site))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(CompressionLayer::new().compress_when(compressed))
        .layer(CatchPanicLayer::custom(problem::panicked))
        .layer(axum::middleware::from_fn_with_state(Arc::new(Semaphore::new(REQUESTS_MAX)), bounded))
        .with_state(dashboard)
}

/// Reads a request's whole body within its time and size, and lets a bounded number of requests in.
async fn bounded(
    axum::extract::State(places): axum::extract::State<Arc<Semaphore>>,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> axum::response::Response {
    let Ok(_place) = places.acquire().await else {
        return problem::Problem::unavailable("the server is stopping").into();
    };
    let (parts, body) = request.into_parts();
    let body = match tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return problem::Problem::too_large(BODY_BYTES_MAX).into(),
        Err(_) => return problem::Problem::timed_out("the request's body took too long").into(),
    };
    next.run(axum::extract::Request::from_parts(parts, body.into())).await
}

/// What every answer says to the browser about safety.
async fn headers(request: axum::extract::Request, next: axum::middleware::Next) -> Response<axum::body::Body> {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let fixed = [
        (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // Under a stricter one browsers hide the origin of our own login form from us.
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
