//! Carrying out what the state machine asks for: one operation per workload at a time, results back as calls.

mod stop;

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use oak_control::worker::{Attempt, Effect, Exit, SHORTEST_RUN, Worker};
use oak_image::{Credentials, Image, ImageReference, ImageStore, PullPhase, PullProgress};
use oak_link::ChildSender;
use oak_model::message::Assignment;
use oak_model::{InstanceKey, Moment, Probe, chain};
use oak_net::NodeNetwork;
use oak_runtime::{BootMoment, ExitObserver, ExitStatus, LEASE_GRACE, Runtime};
use oak_store::{Engine, SystemClock};
use tokio::sync::{Notify, Semaphore, SetOnce, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::container::{Attachment, GPU_LABEL, Places, container_id, request};
use crate::gpus::{self, Gpus};
use crate::names::Names;
use crate::network::Network;
use crate::ports::HostPorts;
use crate::secrets::Secrets;
use crate::{demo, encode};

/// A start that takes longer is given up, so that a stop never waits for it for ever.
const START_LIMIT: Duration = Duration::from_secs(90);

/// Everything operations work with.
pub(crate) struct Operations {
    /// Waited for: what is stored may be begun before the start has come this far.
    pub(crate) engine: SetOnce<Engine<Worker>>,
    pub(crate) to_cluster: OnceLock<ChildSender>,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) images: ImageStore,
    pub(crate) network: Arc<Network>,
    pub(crate) names: Names,
    pub(crate) ports: HostPorts,
    pub(crate) leases: Leases,
    pub(crate) clock: SystemClock,
    pub(crate) places: Places,
    pub(crate) gpus: Gpus,
    pub(crate) secrets: Secrets,
    /// Programs run inside instances.
    pub(crate) execs: Arc<Semaphore>,
    /// The operation under way for each workload.
    pub(crate) running: Mutex<HashMap<InstanceKey, Running>>,
    /// For each process that was started or adopted: whether it has ended.
    pub(crate) ended: Mutex<HashMap<InstanceKey, watch::Receiver<bool>>>,
    /// Poked when everything shall be measured and reported, changed or not.
    pub(crate) report_usage: Notify,
    /// Poked when something asked for may be known.
    pub(crate) answered: Notify,
    /// Poked when the image store may have grown.
    pub(crate) pulled: Notify,
    /// Who has one tries a health check.
    pub(crate) probes: Semaphore,
}

/// Health checks tried at the same time; others wait. Each is about one instance, so there are never more than those.
pub(crate) const PROBES: usize = 16;

// Nothing is started that the runtime would ask to stop, or refuse to execute, at once.
const _: () = assert!(SHORTEST_RUN.as_millis() > LEASE_GRACE.as_millis());

/// Until when the instances may run of which at most one may; known before their containers exist.
#[derive(Default)]
pub(crate) struct Leases(Mutex<HashMap<InstanceKey, BootMoment>>);

impl Leases {
    fn set(&self, key: InstanceKey, until: Option<BootMoment>) {
        let mut leases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match until {
            Some(until) => leases.insert(key, until),
            None => leases.remove(&key),
        };
    }

    fn get(&self, key: InstanceKey) -> Option<BootMoment> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied()
    }
}

/// An operation under way.
pub(crate) struct Running {
    task: JoinHandle<()>,
    /// Whether the operation may be dropped at any point. Pulls may; starting and stopping must come to an end.
    droppable: bool,
}

impl Operations {
    /// Begins what an effect asks for. Does not block.
    pub(crate) fn perform(self: &Arc<Self>, effect: Effect) {
        match effect {
            Effect::ToCluster(message) => self.send(encode(&message)),
            Effect::ReportUsage => self.report_usage.notify_one(),
            Effect::Answered => self.answered.notify_waiters(),
            Effect::Network { version, table } => {
                self.ports.serve(table.ports.keys().copied());
                self.network.set_table(version, *table);
            }
            Effect::Prepare { key, attempt, image } => {
                let operations = Arc::clone(self);
                self.begin(key, true, async move { operations.prepare(key, attempt, &image).await });
            }
            Effect::Start { key, attempt, assignment, address, lease } => {
                self.leases.set(key, lease.map(|until| self.boot_moment(until)));
                let operations = Arc::clone(self);
                self.begin(
                    key,
                    false,
                    async move { operations.start(key, attempt, &assignment, address).await },
                );
            }
            Effect::Lease { key, until } => {
                let until = self.boot_moment(until);
                self.leases.set(key, Some(until));
                self.renew(key, until);
            }
            Effect::Probe { key, attempt, probe, address, timeout } => {
                let operations = Arc::clone(self);
                tokio::spawn(async move { operations.probe(key, attempt, &probe, address, timeout).await });
            }
            Effect::Stop { key, attempt, after, linger, grace, forget } => {
                let operations = Arc::clone(self);
                self.begin(key, false, async move {
                    operations.network.reached(after).await;
                    tokio::time::sleep(linger).await;
                    operations.stop(key, attempt, grace, forget).await;
                });
            }
        }
    }

    fn send(&self, payload: Bytes) {
        if let Some(sender) = self.to_cluster.get()
            && let Err(error) = sender.send(payload)
        {
            // The next hello tells everything.
            tracing::trace!(%error, "not sent to the cluster");
        }
    }

    fn begin(&self, key: InstanceKey, droppable: bool, work: impl Future<Output = ()> + Send + 'static) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let earlier = running.remove(&key);
        let task = tokio::spawn(async move {
            if let Some(earlier) = earlier {
                if earlier.droppable {
                    earlier.task.abort();
                }
                // Ended, dropped or panicked: in every case it is over.
                let _ = earlier.task.await;
            }
            work.await;
        });
        running.retain(|_, running| !running.task.is_finished());
        running.insert(key, Running { task, droppable });
    }

    fn boot_moment(&self, moment: Moment) -> BootMoment {
        BootMoment(self.clock.since_boot(moment))
    }

    /// Moves the end of a container on. A container that is not there (yet) gets the moment when it is created.
    fn renew(&self, key: InstanceKey, until: BootMoment) {
        let Ok(id) = container_id(key) else { return };
        if let Some(Err(error)) = self.runtime.renew(&id, until).now_or_never() {
            tracing::debug!(instance = %key, error = chain(&error), "permission not passed on");
        }
    }

    pub(crate) async fn post(
        &self,
        call: impl FnOnce(&mut Worker, oak_model::Now, &mut dyn oak_control::Entropy) + Send + 'static,
    ) {
        if self.engine.wait().await.post(call).await.is_err() {
            tracing::debug!("result of an operation dropped: the worker is stopping");
        }
    }

    async fn fail(&self, key: InstanceKey, attempt: Attempt, why: String) {
        warn!(instance = %key, why, "cannot start the instance");
        self.post(move |worker, now, entropy| worker.failed(now, entropy, key, attempt, &why)).await;
    }

    async fn prepare(self: &Arc<Self>, key: InstanceKey, attempt: Attempt, image: &str) {
        match self.pull(key, attempt, image).await {
            Ok(_) => {
                self.pulled.notify_one();
                self.post(move |worker, now, _| worker.prepared(now, key, attempt)).await;
            }
            Err(why) => self.fail(key, attempt, why).await,
        }
    }

    async fn pull(
        self: &Arc<Self>,
        key: InstanceKey,
        attempt: Attempt,
        image: &str,
    ) -> Result<Arc<Image>, String> {
        let reference: ImageReference = image.parse().map_err(|error| format!("image `{image}`: {error}"))?;
        demo::install(&self.images, &reference).await.map_err(|error| chain(&error))?;
        let (progress, mut changes) = watch::channel(None);
        let login = self.login(key).await?;
        let pull = self.images.ensure_with(&reference, login, move |now| {
            progress.send_replace(Some(describe(now)));
        });
        let follow = async {
            while changes.changed().await.is_ok() {
                let text = changes.borrow_and_update().clone();
                if let Some(text) = text {
                    self.post(move |worker, now, _| worker.progress(now, key, attempt, text)).await;
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            image = pull => image.map_err(|error| chain(&error)),
            () = follow => Err("the pull was interrupted".to_owned()),
        }
    }

    /// The stored credentials for the registry of an instance's image.
    async fn login(&self, key: InstanceKey) -> Result<Option<Credentials>, String> {
        let engine = self.engine.wait().await;
        let material = engine.call(move |worker, _, _| {
            worker.workload(key).map(|workload| workload.assignment().desired.material.clone())
        });
        let material = material.await.map_err(|error| error.to_string())?.unwrap_or_default();
        self.secrets.login(&material).map_err(|error| chain(&error))
    }

    async fn start(
        self: &Arc<Self>,
        key: InstanceKey,
        attempt: Attempt,
        assignment: &Assignment,
        address: Ipv4Addr,
    ) {
        let create = self.create(key, attempt, assignment, address);
        let started = tokio::time::timeout(START_LIMIT, create).await.unwrap_or_else(|_| {
            Err(format!("network and container were not ready within {} s", START_LIMIT.as_secs()))
        });
        match started {
            Ok(observer) => {
                self.post(move |worker, now, _| worker.started(now, key, attempt)).await;
                self.watch(key, attempt, observer);
            }
            Err(why) => {
                self.ports.settle(key);
                self.gpus.give_back(key, attempt);
                self.fail(key, attempt, why).await;
            }
        }
    }

    /// The network with the subnets this node has now; its name server starts when there are names.
    pub(crate) async fn open_network(&self) -> Result<Arc<NodeNetwork>, String> {
        let engine = self.engine.wait().await;
        let subnets =
            engine.call(|worker, _, _| worker.subnets()).await.map_err(|error| error.to_string())?;
        let network = self.network.get(&subnets).await?;
        if self.names.belong_to(network.config()) {
            // What the first instance may call has to be known before it starts.
            self.network.tell_table_again();
        }
        Ok(network)
    }

    async fn create(
        self: &Arc<Self>,
        key: InstanceKey,
        attempt: Attempt,
        assignment: &Assignment,
        address: Ipv4Addr,
    ) -> Result<ExitObserver, String> {
        let spec = &assignment.desired.spec;
        let image = self.pull(key, attempt, &spec.image).await?;
        let network = self.open_network().await?;
        self.names.serve().await;
        self.ports.claim(key, &spec.ports, &network).await?;
        let id = container_id(key).map_err(|error| chain(&error))?;
        self.runtime.delete(&id).await.map_err(|error| chain(&error))?;
        let attach = oak_net::Attach { id: key.to_string(), address };
        let attached = network.attach(attach).await.map_err(|error| chain(&error))?;
        let secrets = self.secrets.provide(&assignment.desired).map_err(|error| chain(&error))?;
        let resolver = self.names.resolver(&assignment.desired.job_name);
        let attachment = Attachment { address, namespace: &attached.namespace, resolver: &resolver };
        let mut request =
            request(assignment, &image, &attachment, &self.places, secrets).map_err(|error| chain(&error))?;
        let given = self.gpus.assign(key, attempt, spec.resources.gpus).map_err(|error| error.to_string())?;
        if !given.is_empty() {
            request.labels.insert(GPU_LABEL.to_owned(), gpus::label(&given));
            request.devices = self.gpus.nodes(&given);
        }
        request.run_until = self.leases.get(key);
        let (started, observer) = self.runtime.create(request).await.map_err(|error| chain(&error))?;
        // It may have been renewed while the container was created.
        if let Some(until) = self.leases.get(key) {
            self.renew(key, until);
        }
        info!(instance = %key, service = %assignment.desired.job_name, pid = started.pid, "instance runs");
        Ok(observer)
    }

    async fn probe(
        &self,
        key: InstanceKey,
        attempt: Attempt,
        probe: &Probe,
        address: Ipv4Addr,
        limit: Duration,
    ) {
        let Ok(_turn) = self.probes.acquire().await else { return };
        let outcome = crate::probe::attempt(
            self.runtime.as_ref(),
            key,
            probe,
            address,
            limit,
            self.secrets.environment_of(key),
        )
        .await;
        if let Err(why) = &outcome {
            tracing::debug!(instance = %key, %probe, why, "health check failed");
        }
        self.post(move |worker, now, entropy| worker.probed(now, entropy, key, attempt, outcome)).await;
    }

    /// Tells the state machine when a process ends.
    pub(crate) fn watch(self: &Arc<Self>, key: InstanceKey, attempt: Attempt, observer: ExitObserver) {
        let operations = Arc::clone(self);
        let (has_ended, ended) = watch::channel(false);
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).insert(key, ended);
        tokio::spawn(async move {
            let status = observer.await;
            operations.gpus.release(key, attempt);
            has_ended.send_replace(true);
            let exit = exit(&status);
            info!(instance = %key, code = exit.code, signal = exit.signal, out_of_memory = exit.out_of_memory, "instance ended");
            operations
                .post(move |worker, now, entropy| worker.exited(now, entropy, key, attempt, exit))
                .await;
        });
    }
}

pub(crate) fn exit(status: &ExitStatus) -> Exit {
    Exit {
        code: status.code,
        signal: status.signal,
        out_of_memory: status.out_of_memory,
        lease_ended: status.lease_ended,
    }
}

fn describe(progress: PullProgress) -> String {
    match (progress.phase, progress.percent()) {
        (PullPhase::Waiting, _) => "waiting for other image pulls".to_owned(),
        (PullPhase::Resolving, _) => "asking the registry for the image".to_owned(),
        (PullPhase::Downloading, Some(percent)) => format!("pulling the image, {percent} %"),
        (PullPhase::Downloading, None) => "pulling the image".to_owned(),
        (PullPhase::Unpacking, _) => "unpacking the image".to_owned(),
        (PullPhase::Done, _) => "the image is here".to_owned(),
    }
}
