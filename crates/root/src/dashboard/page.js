"use strict";
const PAUSE_MS = 2500;
const session = { token: null, refresh: null, user: null };
const shown = {};
const byId = (id) => document.getElementById(id);

class Refused extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

async function call(path, { method = "GET", body, token = session.token } = {}) {
  const headers = {};
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const options = { method, headers, cache: "no-store", signal: AbortSignal.timeout(15000) };
  if (body !== undefined) options.body = JSON.stringify(body);
  const response = await fetch(path, options);
  let answer = await response.json().catch(() => null);
  if (!response.ok) throw new Refused(response.status, answer?.message ?? response.statusText);
  // Some answers are JSON inside a JSON string.
  if (typeof answer === "string") answer = JSON.parse(answer);
  return answer;
}

// Calls with the token of the session; when it has expired, once more with a new one.
async function authorised(path, options) {
  try {
    return await call(path, options);
  } catch (error) {
    if (error.status !== 401 || !session.refresh) throw error;
    session.token = (await call("/api/auth/refresh", { method: "POST", body: {}, token: session.refresh })).token;
    return call(path, options);
  }
}

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function table(caption, columns, rows) {
  const head = element("tr", {}, ...columns.map((text) => element("th", { scope: "col" }, text)));
  return element("table", { "aria-label": caption }, element("thead", {}, head), element("tbody", {}, ...rows));
}

// Replaces the content only if the data changed, so that nothing flickers and selections stay.
function show(id, data, render) {
  const key = JSON.stringify(data);
  if (shown[id] === key) return;
  shown[id] = key;
  byId(id).replaceChildren(...render(data));
}

function kind(status) {
  if (status === "RUNNING" || status === "COMPLETED") return "good";
  const working = ["REQUESTED", "CLUSTER_SCHEDULED", "NODE_SCHEDULED", "CREATING", "CREATED", "UNDEPLOYED"];
  return working.includes(status) ? "wait" : "bad";
}

function clusterRow(cluster) {
  const active = cluster.active;
  return element("tr", {},
    element("td", {}, cluster.cluster_name),
    element("td", { class: active ? "good" : "bad" }, active ? "connected" : "not connected"),
    element("td", { class: "number" }, String(cluster.active_nodes)),
    element("td", { class: "number" }, active ? `${cluster.aggregated_cpu_percent.toFixed(0)} % of ${cluster.total_cpu_cores}` : "–"),
    element("td", { class: "number" }, active ? `${cluster.memory_in_mb} MiB` : "–"),
    element("td", {}, `${cluster.ip}:${cluster.port}`));
}

function renderClusters(clusters) {
  if (clusters.length === 0) return [element("p", { class: "dim" }, "No cluster has joined yet.")];
  const columns = ["Name", "Link", "Workers", "CPU in use, cores", "Memory free", "Address"];
  return [table("Clusters", columns, clusters.map(clusterRow))];
}

function statusRow(kindOfRow, name, status, detail, address, place) {
  return element("tr", { class: kindOfRow },
    element("td", {}, name),
    element("td", { class: status ? kind(status) : "dim" }, status || "not deployed"),
    element("td", {}, address),
    element("td", {}, place),
    element("td", { class: "detail" }, detail));
}

function serviceRows(service) {
  const rows = [statusRow("service", service.microservice_name, service.status, service.image, service.RR_ip, "")];
  for (const instance of service.instance_list) {
    const place = instance.worker_name || instance.host_ip || "";
    rows.push(statusRow("instance", `instance ${instance.instance_number}`, instance.status, instance.status_detail, instance.instance_ip, place));
  }
  return rows;
}

function renderApplications({ applications, services }) {
  if (applications.length === 0) return [element("p", { class: "dim" }, "No application exists yet.")];
  return applications.flatMap((application) => {
    const title = element("h3", {}, `${application.application_name}.${application.application_namespace}`);
    const own = services.filter((service) => service.applicationID === application.applicationID);
    if (own.length === 0) return [title, element("p", { class: "dim" }, "No services.")];
    const columns = ["Service", "Status", "Address", "Worker", "Detail"];
    const name = `Services of ${application.application_name}`;
    return [title, element("div", { class: "scroll" }, table(name, columns, own.flatMap(serviceRows)))];
  });
}

function setSession(tokens, user) {
  session.token = tokens?.token ?? null;
  session.refresh = tokens?.refresh_token ?? null;
  session.user = user;
  byId("login").hidden = Boolean(user);
  byId("work").hidden = byId("account").hidden = !user;
  byId("user").textContent = user ?? "";
  if (!user) show("applications", null, () => []);
}

async function readWork() {
  try {
    const [applications, services] = await Promise.all([authorised("/api/applications/"), authorised("/api/services/")]);
    if (!session.user) return;
    // What changes with every measurement is not shown here.
    const trimmed = services.map((service) => ({
      ...service,
      instance_list: service.instance_list.map(({ instance_number, status, status_detail, instance_ip, worker_name, host_ip }) =>
        ({ instance_number, status, status_detail, instance_ip, worker_name, host_ip })),
    }));
    show("applications", { applications, services: trimmed }, renderApplications);
    byId("work-problem").textContent = "";
  } catch (error) {
    if (error.status === 401 || error.status === 422) {
      setSession(null, null);
      byId("login-problem").textContent = "The session has ended: log in again.";
    } else {
      byId("work-problem").textContent = error.message;
    }
  }
}

async function refresh() {
  try {
    show("clusters", await call("/api/clusters/", { token: null }), renderClusters);
    byId("server").textContent = location.host;
    if (session.user) await readWork();
  } catch (error) {
    byId("server").textContent = `no answer from ${location.host}: ${error.message}`;
  }
}

async function loop() {
  if (!document.hidden) await refresh();
  setTimeout(loop, PAUSE_MS);
}

byId("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const username = form.elements.username.value;
  byId("login-problem").textContent = "";
  try {
    const body = { username, password: form.elements.password.value };
    if (form.elements.organization.value) body.organization_name = form.elements.organization.value;
    setSession(await call("/api/auth/login", { method: "POST", body, token: null }), username);
    form.reset();
    await refresh();
  } catch (error) {
    byId("login-problem").textContent = error.message;
  }
});

byId("password-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  try {
    const body = { oldPassword: form.elements.old.value, newPassword: form.elements.new.value };
    await authorised(`/api/user/${encodeURIComponent(session.user)}`, { method: "POST", body });
    form.reset();
    byId("password").open = false;
    setSession(null, null);
    byId("login-problem").textContent = "The password is changed: log in with the new one.";
  } catch (error) {
    byId("password-result").textContent = error.message;
  }
});

byId("logout").addEventListener("click", () => setSession(null, null));
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
loop();
