//! `GET /metrics`: numbers for Prometheus. Open to everybody, as scrapers expect; therefore it names nobody and
//! nothing: no user, application, service, cluster or worker, only how many of them there are.
//!
//! Requests are counted as they are answered. Everything else is looked up when it is asked for, so that a root
//! nobody watches does no work for it; what takes long to count is counted at most once per second, whoever asks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{Method, StatusCode, header};
use axum::response::IntoResponse;
use oak_control::root::Root;
use oak_metrics::{CONTENT_TYPE, Exposition, Histogram, Kind, describe_process};
use oak_model::Status;
use oak_store::Health;

use super::Shared;
use super::answer::Answer;

/// Where requests without a route are counted.
const ELSEWHERE: &str = "other";
/// Methods that are counted under their name; clients can invent others.
const METHODS: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS"];

/// What was answered so far. There are as many series as routes, methods and statuses that occur; clients cannot
/// make new ones.
#[derive(Debug, Default)]
pub(super) struct Requests(Mutex<BTreeMap<String, Route>>);

#[derive(Debug, Default)]
struct Route {
    answers: BTreeMap<(&'static str, u16), u64>,
    durations: Histogram,
}

impl Requests {
    /// Counts one answer. `route` is the pattern of the path, without variable parts.
    pub(super) fn answered(
        &self,
        route: Option<&str>,
        method: &Method,
        status: StatusCode,
        duration: Duration,
    ) {
        // Both slash forms are one route.
        let route = route.map_or(ELSEWHERE, |route| match route.trim_end_matches('/') {
            "" => "/",
            trimmed => trimmed,
        });
        let method = METHODS.iter().find(|known| **known == method.as_str()).copied().unwrap_or(ELSEWHERE);
        let mut routes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !routes.contains_key(route) {
            routes.insert(route.to_owned(), Route::default());
        }
        if let Some(counted) = routes.get_mut(route) {
            *counted.answers.entry((method, status.as_u16())).or_default() += 1;
            counted.durations.observe(duration);
        }
    }

    fn describe(&self, exposition: &mut Exposition) {
        let routes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        exposition.family(Kind::Counter, "oakestra_root_http_requests_total", "Requests that were answered.");
        for (route, counted) in &*routes {
            for ((method, status), count) in &counted.answers {
                let status = status.to_string();
                exposition.sample(&[("route", route), ("method", method), ("status", &status)], count);
            }
        }
        let help = "Time until an answer began.";
        exposition.family(Kind::Histogram, "oakestra_root_http_request_duration_seconds", help);
        for (route, counted) in &*routes {
            exposition.histogram(&[("route", route)], &counted.durations.snapshot());
        }
    }
}

/// How long a census is good.
const CENSUS_LIFE: Duration = Duration::from_secs(1);

/// The newest census. Those who ask while one is being taken wait for it.
#[derive(Default)]
pub(super) struct Censuses(tokio::sync::Mutex<Option<(Instant, Arc<Census>)>>);

impl Censuses {
    /// The newest one, or the one that `take` takes.
    async fn newest<E>(
        &self,
        now: Instant,
        take: impl AsyncFnOnce() -> Result<Census, E>,
    ) -> Result<Arc<Census>, E> {
        let mut newest = self.0.lock().await;
        if let Some((at, census)) = &*newest
            && now.saturating_duration_since(*at) < CENSUS_LIFE
        {
            return Ok(Arc::clone(census));
        }
        let census = Arc::new(take().await?);
        *newest = Some((now, Arc::clone(&census)));
        Ok(census)
    }
}

/// How many there are of everything.
#[derive(Default)]
struct Census {
    applications: usize,
    services: usize,
    instances: BTreeMap<&'static str, u64>,
    departures: usize,
    addresses: usize,
    /// Connected, and not.
    clusters: [u64; 2],
    workers: [u64; 2],
}

impl Census {
    fn of(root: &Root) -> Self {
        // All of them, so that a series does not begin in the middle of an incident.
        let mut instances: BTreeMap<_, _> = Status::ALL.iter().map(|status| (status.as_str(), 0)).collect();
        for instance in root.instances() {
            *instances.entry(instance.status.as_str()).or_default() += 1;
        }
        let (mut clusters, mut workers) = ([0, 0], [0, 0]);
        for cluster in root.clusters() {
            clusters[usize::from(!cluster.is_active())] += 1;
            for worker in cluster.workers.values() {
                workers[usize::from(!(cluster.is_active() && worker.connected))] += 1;
            }
        }
        Self {
            applications: root.applications().count(),
            services: root.services().count(),
            instances,
            departures: root.departures().count(),
            addresses: root.addresses_in_use(),
            clusters,
            workers,
        }
    }

    fn describe(&self, exposition: &mut Exposition) {
        let mut gauge = |name, help, value: usize| {
            exposition.family(Kind::Gauge, name, help).sample(&[], value);
        };
        gauge("oakestra_root_applications", "Applications.", self.applications);
        gauge("oakestra_root_services", "Services.", self.services);
        let help = "Instances that are still being taken down somewhere.";
        gauge("oakestra_root_departures", help, self.departures);
        let help = "Service and instance addresses in use.";
        gauge("oakestra_root_addresses_in_use", help, self.addresses);
        exposition.family(Kind::Gauge, "oakestra_root_instances", "Instances by status.");
        for (status, count) in &self.instances {
            exposition.sample(&[("status", status)], count);
        }
        for (name, help, counts) in [
            ("oakestra_root_clusters", "Clusters that have joined.", self.clusters),
            (
                "oakestra_root_workers",
                "Workers of all clusters, as far as the root knows them.",
                self.workers,
            ),
        ] {
            exposition.family(Kind::Gauge, name, help);
            for (state, count) in ["connected", "away"].iter().zip(counts) {
                exposition.sample(&[("state", state)], count);
            }
        }
        exposition
            .family(Kind::Gauge, "oakestra_root_link_sessions", "Open link sessions of clusters.")
            .sample(&[], self.clusters[0]);
    }
}

/// `GET /metrics`.
pub(super) async fn show(State(api): State<Shared>) -> Answer {
    let count = async || api.parts.root.call(|root, _, _| Census::of(root)).await;
    let census = api.censuses.newest(Instant::now(), count).await?;
    let mut exposition = Exposition::default();
    exposition
        .family(Kind::Gauge, "oakestra_build_info", "Version of the program; always 1.")
        .sample(&[("version", env!("CARGO_PKG_VERSION")), ("role", "root")], 1);
    api.metrics.describe(&mut exposition);
    let running = super::guard::CONCURRENT - api.requests.available_permits();
    exposition
        .family(Kind::Gauge, "oakestra_root_http_requests_running", "Requests that are being answered.")
        .sample(&[], running);
    census.describe(&mut exposition);
    let name = "oakestra_root_store_commit_duration_seconds";
    if let Some(commits) = api.parts.root.commits() {
        exposition
            .family(Kind::Histogram, name, "Time of a commit to the database, of one or of many steps.")
            .histogram(&[], &commits.snapshot());
    }
    let degraded = !matches!(*api.parts.root.health().borrow(), Health::Ok);
    exposition
        .family(Kind::Gauge, "oakestra_root_store_degraded", "1 while the disk does not take every change.")
        .sample(&[], u8::from(degraded));
    describe_process(&mut exposition);
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], exposition.finish()).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn however_many_ask_it_is_counted_once_per_second() {
        let (censuses, now) = (Censuses::default(), Instant::now());
        let counted = std::cell::Cell::new(0);
        for (after, expected) in [(0, 1), (0, 1), (999, 1), (1_000, 2), (1_500, 2), (2_001, 3)] {
            let count = async || {
                counted.set(counted.get() + 1);
                Ok::<_, ()>(Census { services: counted.get(), ..Census::default() })
            };
            let census = censuses.newest(now + Duration::from_millis(after), count).await.unwrap();
            assert_eq!(census.services, expected, "after {after} ms");
        }
        let failed = censuses.newest(now + Duration::from_secs(9), async || Err("stopped")).await;
        assert_eq!(failed.err(), Some("stopped"));
    }

    #[test]
    fn clients_cannot_make_new_series() {
        let requests = Requests::default();
        let strange = Method::from_bytes(b"BREW").unwrap();
        for route in [None, Some("/api/clusters"), Some("/api/clusters/"), Some("/")] {
            requests.answered(route, &strange, StatusCode::METHOD_NOT_ALLOWED, Duration::ZERO);
        }
        let routes = requests.0.lock().unwrap();
        assert_eq!(routes.keys().collect::<Vec<_>>(), ["/", "/api/clusters", "other"]);
        assert!(routes.values().all(|route| route.answers.keys().all(|(method, _)| *method == ELSEWHERE)));
    }
}
