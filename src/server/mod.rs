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
use connections::Pace;
use jobs::Jobs;
pub use schedule::{Schedule, ScheduleError};

use crate::pipeline::Context;

/// Bytes of a request's body; SQL and lists of tables are far smaller.
const BODY_BYTES_MAX: usize = 256 << 10;
/// Bytes of a login, which anybody may send.
const LOGIN_BYTES_MAX: usize = 4 << 10;
/// Requests worked on at once; more wait at the door.
const REQUESTS_MAX: usize = 256;
/// How long a request may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long requests under way, and beside them the cancelled run, get at the end.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// Who takes less of what it asked for than 256 kB in 30 s would keep its connection, and a thread, for ever.
const PACE_MIN: Pace = Pace { bytes: 256 << 10, time: Duration::from_secs(30) };
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
    status: look::LastStatus,
    /// Queries and exports at once.
    reads: Arc<Semaphore>,
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
        status: look::LastStatus::default(),
        reads: Arc::new(Semaphore::new(rows::READS_MAX)),
        sockets: Arc::new(Semaphore::new(socket::SOCKETS_MAX)),
        context,
    }));
    let clock = tokio::spawn(schedule::keep(dashboard.clone()));
    ready(address);
    let run_ends = async {
        cancel.cancelled().await;
        clock.abort();
        dashboard.jobs.ended(SHUTDOWN_TIMEOUT).await;
    };
    // Side by side: containers are killed when both together take long.
    tokio::join!(connections::serve(listener, router(dashboard.clone()), &cancel, PACE_MIN), run_ends);
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
    let places = Arc::new(Semaphore::new(REQUESTS_MAX));
    let bounded_by = |body_bytes_max| {
        let bounds = Bounds { places: Arc::clone(&places), body_bytes_max };
        axum::middleware::from_fn_with_state(bounds, bounded)
    };
    // Who has no token is sent away before the body is read; health is told however busy the rest is.
    let guarded = Router::new()
        .nest("/api", api)
        .route("/ws/progress", get(socket::progress))
        .route("/metrics", get(health::metrics))
        .route("/", get(assets::index))
        .route("/logout", post(access::logout))
        .route_layer(bounded_by(BODY_BYTES_MAX))
        .route_layer(axum::middleware::from_fn_with_state(dashboard.clone(), access::guard));
    let open = Router::new()
        .route("/login", get(assets::login).post(access::login))
        .route("/assets/{*file}", get(assets::file))
        .route_layer(bounded_by(LOGIN_BYTES_MAX));
    let health = Router::new().route("/healthz", get(health::alive)).route("/readyz", get(health::ready));
    guarded
        .merge(open)
        .merge(health)
        .fallback(problem::no_such_route)
        .method_not_allowed_fallback(problem::wrong_method)
        .layer(axum::middleware::from_fn_with_state(dashboard.clone(), access::same_site))
        .layer(axum::middleware::from_fn(problem::as_problems))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(CompressionLayer::new().compress_when(compressed))
        .layer(CatchPanicLayer::custom(problem::panicked))
        .layer(axum::middleware::from_fn(headers))
        .with_state(dashboard)
}

/// What requests may take together and one by one.
#[derive(Debug, Clone)]
struct Bounds {
    places: Arc<Semaphore>,
    body_bytes_max: usize,
}

/// Reads a request's whole body within its time and size, and then lets a bounded number of requests in: who is slow to
/// send takes nobody's place.
async fn bounded(
    axum::extract::State(bounds): axum::extract::State<Bounds>,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> axum::response::Response {
    let (parts, body) = request.into_parts();
    let body = match tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(body, bounds.body_bytes_max)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return problem::Problem::too_large(bounds.body_bytes_max).into(),
        Err(_) => return problem::Problem::timed_out("the request's body took too long").into(),
    };
    let Ok(_place) = bounds.places.acquire().await else {
        return problem::Problem::unavailable("the server is stopping").into();
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    /// Routes with their methods, as `router` names them.
    fn routes() -> BTreeSet<String> {
        let source = include_str!("mod.rs");
        let router = source.split_once("fn router(").map_or("", |(_, rest)| rest);
        let router = router.split_once("struct Bounds").map_or("", |(router, _)| router);
        let mut routes = BTreeSet::new();
        for (index, part) in router.split("let guarded = ").enumerate() {
            for route in part.split(".route(\"").skip(1) {
                let (path, handlers) = route.split_once('"').unwrap_or_default();
                let handlers = handlers.lines().next().unwrap_or_default();
                let prefix = if index == 0 { "/api" } else { "" };
                for method in ["get", "post"] {
                    if handlers.contains(&format!("{method}(")) {
                        routes.insert(format!("{method} {prefix}{}", path.replace("{*", "{")));
                    }
                }
            }
        }
        routes
    }

    #[test]
    fn the_api_describes_every_route_and_no_other() {
        let described: Value = serde_json::from_str(include_str!("../../assets/openapi.json")).unwrap_or_default();
        let paths = described["paths"].as_object().into_iter().flatten();
        let described: BTreeSet<String> = paths
            .flat_map(|(path, methods)| {
                methods.as_object().into_iter().flatten().map(move |(method, _)| format!("{method} {path}"))
            })
            .collect();
        let routes = routes();
        assert!(routes.len() > 30, "{routes:?}");
        assert_eq!(described, routes);
    }
}
