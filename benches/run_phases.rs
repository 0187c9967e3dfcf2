//! The phases over a small lake, from views to published dataset.
#![allow(missing_docs, reason = "criterion's macros make public items")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a bench that cannot run should stop")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use racealpha::config::{Pipeline, Settings};
use racealpha::fixtures::{FixtureOptions, load};
use racealpha::pg::{DatabaseUrl, LocalServer, ServerOptions, Session};
use racealpha::pipeline::{Context, PullOptions, TransformOptions, pull, transform};
use racealpha::progress::Progress;
use tokio_util::sync::CancellationToken;

const RACES: u64 = 5_000;
const SEED: u64 = 42;
const CONNECTIONS: usize = 2;

/// A lake with the source of a server that is gone again.
async fn pulled(lake: &str) -> Context {
    let server = LocalServer::start(&ServerOptions::default()).unwrap();
    let url: DatabaseUrl = server.create_database("racing").await.unwrap().as_str().parse().unwrap();
    let (pipeline, folder) = Pipeline::load(None, &[]).unwrap();
    let settings = Settings::for_server(url.clone(), lake.to_owned(), CONNECTIONS);
    let context = Context {
        run_id: None,
        pipeline,
        folder,
        settings,
        progress: Progress::new(),
        cancel: CancellationToken::new(),
    };
    let mut session = Session::open(&url, "racealpha bench").await.unwrap();
    let options = FixtureOptions { races: RACES, seed: SEED };
    load(&mut session, &options, &context.progress, &context.cancel).await.unwrap();
    drop(session);
    pull(&context, &[], PullOptions::default()).await.unwrap();
    context
}

fn phases(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let lake = folder.path().display().to_string();
    let context = runtime.block_on(pulled(&lake));
    let mut group = criterion.benchmark_group("run");
    group.sample_size(10).throughput(Throughput::Elements(RACES));
    group.bench_function("5000_races", |bencher| {
        bencher.iter(|| runtime.block_on(transform(&context, &TransformOptions::default())).unwrap());
    });
    group.finish();
}

criterion_group!(benches, phases);
criterion_main!(benches);
