// Shows the document of this server's API and calls it. Everything from the document goes into the page as text.
"use strict";

const TOKEN = "oakestra-api-token";
/** Characters of a stream that stay on the page. */
const MOST_SHOWN = 200_000;
const find = (id) => document.getElementById(id);
let api = null;

/** Makes an element; children are elements or texts. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key in element && key !== "list") element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

/** Text in which `words` between backticks are code. */
function prose(text = "") {
  return text.split("`").map((part, place) => (place % 2 === 1 ? make("code", {}, part) : part));
}

/** Follows a reference inside the document. */
function resolve(schema) {
  for (let steps = 0; schema && schema.$ref && steps < 10; steps += 1) {
    schema = schema.$ref.slice(2).split("/").reduce((place, key) => place?.[key], api);
  }
  return schema ?? {};
}

/** An example of what fits a schema. */
function example(schema, depth = 0) {
  schema = resolve(schema);
  if (schema.example !== undefined) return schema.example;
  if (schema.default !== undefined) return schema.default;
  if (schema.enum) return schema.enum[0];
  if (depth > 6) return null;
  if (schema.anyOf) return example(schema.anyOf[0], depth + 1);
  if (schema.allOf) return Object.assign({}, ...schema.allOf.map((part) => example(part, depth + 1)));
  switch (schema.type) {
    case "object":
      return Object.fromEntries(
        Object.entries(schema.properties ?? {}).map(([key, value]) => [key, example(value, depth + 1)]));
    case "array": return [example(schema.items ?? {}, depth + 1)];
    case "integer": return Math.max(0, schema.minimum ?? 0);
    case "number": return 0;
    case "boolean": return true;
    case "string": return schema.nullable ? null : "";
    default: return null;
  }
}

/** A schema in one line. */
function kind(schema) {
  const name = schema?.$ref?.split("/").pop();
  if (name) return name;
  schema = schema ?? {};
  const several = schema.anyOf ?? schema.allOf;
  if (several) return several.map(kind).join(schema.anyOf ? " or " : " and ");
  if (schema["x-json"]) return `text with JSON: ${kind(schema["x-json"])}`;
  if (schema.enum) return schema.enum.map((word) => JSON.stringify(word)).join(" | ");
  if (schema.type === "array") return `list of ${kind(schema.items)}`;
  return schema.type ?? "anything";
}

/** The schema of the parts of a list, of what is inside a text, or the schema itself. */
function inside(schema) {
  schema = resolve(schema);
  if (schema["x-json"]) return inside(schema["x-json"]);
  return schema.type === "array" ? inside(schema.items) : schema;
}

/** The row of a key. If its value has keys of its own, they are shown below it on a click. */
function keyRow(key, value, isRequired) {
  const parts = inside(value);
  const cell = make("td", {});
  const row = make("tr", {},
    make("td", {}, make("code", {}, key)),
    cell,
    make("td", { className: "dim" }, isRequired ? "" : "optional"),
    make("td", { className: "wide" }, ...prose(resolve(value).description ?? parts.description)));
  if (!parts.properties && !parts.allOf && !parts.anyOf) {
    cell.append(kind(value));
    return row;
  }
  const button = make("button", { type: "button", className: "quiet keys" }, kind(value));
  let below = null;
  const show = (isOpen) => {
    button.setAttribute("aria-expanded", isOpen);
    // Schemas may contain themselves: one level with each click.
    if (isOpen && !below) row.after(below = make("tr", {}, make("td", { colSpan: 4, className: "below" }, schemaTable(parts))));
    if (below) below.hidden = !isOpen;
  };
  button.addEventListener("click", () => show(button.getAttribute("aria-expanded") !== "true"));
  show(false);
  cell.append(button);
  return row;
}

function schemaTable(schema) {
  schema = resolve(schema);
  if (schema.anyOf) {
    return make("div", {}, ...schema.anyOf.flatMap((part) => [make("h4", {}, kind(part)), schemaTable(inside(part))]));
  }
  const parts = schema.allOf ? schema.allOf.map(resolve) : [schema];
  const rows = parts.flatMap((part) => Object.entries(part.properties ?? {})
    .map(([key, value]) => keyRow(key, value, (part.required ?? []).includes(key))));
  if (rows.length === 0) return make("p", { className: "dim" }, kind(schema));
  const head = ["Name", "Kind", "", "Meaning"].map((title) => make("th", { scope: "col" }, title));
  return make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
}

/** Answers are sometimes JSON in a JSON string: both are shown decoded. */
function readable(body) {
  try {
    let value = JSON.parse(body);
    const isNested = typeof value === "string";
    if (isNested) value = JSON.parse(value);
    return (isNested ? "(JSON in a JSON string)\n" : "") + JSON.stringify(value, null, 2);
  } catch {
    return body;
  }
}

function send(method, path, body, token, signal) {
  const headers = {};
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  return fetch(path, { method, headers, body, signal });
}

async function call(method, path, body) {
  const answer = await send(method, path, body);
  return { answer, text: await answer.text() };
}

/** Shows an answer; what is not JSON as it comes, because events and output may have no end. */
async function showAnswer(result, stop, answer, took) {
  const media = answer.headers.get("content-type");
  const line = `${answer.status} ${answer.statusText} · ${took} ms · ${media ?? "no body"}`;
  const head = make("p", { className: answer.ok ? "good" : "problem" }, line);
  const text = make("pre", { tabIndex: 0, "aria-live": "off" });
  if (!media || media.startsWith("application/json")) {
    text.append(readable(await answer.text()));
    result.replaceChildren(head, text);
    return;
  }
  result.replaceChildren(head, make("p", {}, stop), text);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    text.textContent = (text.textContent + value).slice(-MOST_SHOWN);
  }
  stop.remove();
}

/** The form that calls an operation. */
function trial(path, method, operation) {
  const inputs = (operation.parameters ?? []).map((parameter) => ({
    parameter,
    input: make("input", { placeholder: kind(parameter.schema), required: parameter.required, spellcheck: false }),
  }));
  const fields = inputs.map(({ parameter, input }) => make("label", { title: parameter.schema.description ?? "" }, parameter.name, input));
  const schema = operation.requestBody?.content?.["application/json"]?.schema;
  const body = schema && make("textarea", { spellcheck: false, value: JSON.stringify(example(schema), null, 2) });
  if (body) fields.push(make("label", { className: "wide" }, "Body", body));
  const result = make("div", { role: "status" });
  let running = null;
  const form = make("form", {}, ...fields, make("button", {}, "Send"));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    let target = path;
    const query = new URLSearchParams();
    for (const { parameter, input } of inputs) {
      if (parameter.in === "path") target = target.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
      else if (input.value !== "") query.set(parameter.name, input.value);
    }
    if (query.size > 0) target += `?${query}`;
    running?.abort();
    const abort = running = new AbortController();
    const stop = make("button", { type: "button", className: "quiet" }, "Stop");
    stop.addEventListener("click", () => abort.abort());
    result.replaceChildren(make("p", { className: "dim" }, "waiting… ", stop));
    const begun = performance.now();
    try {
      const answer = await send(method.toUpperCase(), target, body?.value, sessionStorage.getItem(TOKEN), abort.signal);
      await showAnswer(result, stop, answer, Math.round(performance.now() - begun));
    } catch (error) {
      if (!abort.signal.aborted) result.replaceChildren(make("p", { className: "problem" }, `no answer: ${error.message}`));
      else if (abort === running) stop.replaceWith(make("span", { className: "dim" }, "stopped"));
    }
  });
  return make("div", {}, make("h3", {}, "Try it"), form, result);
}

function responses(operation) {
  const rows = Object.entries(operation.responses).map(([status, response]) => {
    response = resolve(response);
    const [media, content] = Object.entries(response.content ?? {})[0] ?? ["", {}];
    return make("tr", {}, make("td", {}, make("code", {}, status)), make("td", { className: "wide" }, ...prose(response.description)),
      make("td", {}, media === "application/json" ? kind(content.schema) : media));
  });
  return make("table", {}, make("tbody", {}, ...rows));
}

function describe(path, method, operation) {
  const content = make("div", {});
  const details = make("details", { className: "operation", id: operation.operationId },
    make("summary", {},
      make("span", { className: `method ${method}` }, method),
      make("span", { className: "path" }, path),
      make("span", { className: "dim" }, operation.summary)),
    content);
  // Filled when it is opened for the first time.
  details.addEventListener("toggle", () => {
    if (!details.open || content.hasChildNodes()) return;
    const access = operation.security?.length === 0 ? "Needs no token." : "Needs a token.";
    content.append(make("p", {}, ...prose([operation.description, access].filter(Boolean).join(" "))));
    const body = operation.requestBody?.content?.["application/json"]?.schema;
    if (body) content.append(make("h3", {}, `Body: ${kind(body)}`), schemaTable(body));
    const success = resolve(operation.responses["200"]).content?.["application/json"]?.schema;
    if (success) content.append(make("h3", {}, `Answer: ${kind(success)}`), schemaTable(inside(success)));
    content.append(make("h3", {}, "Statuses"), responses(operation), trial(path, method, operation));
  });
  return details;
}

function show(document_) {
  api = document_;
  find("about").append(...prose(api.info.description));
  for (const tag of api.tags) {
    const links = make("ul", {});
    const section = make("section", { "aria-label": tag.name },
      make("h2", {}, tag.name), make("p", { className: "dim" }, tag.description));
    for (const [path, methods] of Object.entries(api.paths)) {
      for (const [method, operation] of Object.entries(methods)) {
        if (!operation.tags.includes(tag.name)) continue;
        const details = describe(path, method, operation);
        section.append(details);
        const link = make("a", { href: `#${operation.operationId}` },
          make("span", { className: `method ${method}` }, method), " ", path);
        link.addEventListener("click", () => { details.open = true; });
        links.append(make("li", {}, link));
      }
    }
    find("links").append(make("div", { className: "group" }, make("strong", {}, tag.name), links));
    section.classList.add("group");
    find("operations").append(section);
  }
  const opened = location.hash && document.getElementById(location.hash.slice(1));
  if (opened instanceof HTMLDetailsElement) {
    opened.open = true;
    opened.scrollIntoView();
  }
}

function filter() {
  const words = find("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (element) => words.every((word) => element.textContent.toLowerCase().includes(word));
  for (const details of document.querySelectorAll("details.operation")) details.hidden = !fits(details.firstChild);
  for (const item of document.querySelectorAll("#links li")) item.hidden = !fits(item);
  for (const group of document.querySelectorAll(".group")) {
    group.hidden = !group.querySelector("details.operation:not([hidden]), li:not([hidden])");
  }
}

/** Who the token is for and until when; the server checks it anyway. */
function showState() {
  const token = sessionStorage.getItem(TOKEN);
  let state = "not logged in";
  if (token) {
    state = "with a token";
    try {
      const part = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
      const claims = JSON.parse(atob(part));
      state = `${claims.sub} until ${new Date(claims.exp * 1000).toLocaleTimeString()}`;
    } catch { /* not a token of this server: its answers will say so */ }
  }
  find("state").textContent = state;
}

function use(token) {
  if (token) sessionStorage.setItem(TOKEN, token);
  else sessionStorage.removeItem(TOKEN);
  showState();
}

find("authorize").addEventListener("click", () => find("login").showModal());
find("close").addEventListener("click", () => find("login").close());
find("forget").addEventListener("click", () => { use(null); find("login").close(); });
find("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  use(event.target.elements.token.value.trim());
  find("login").close();
});
find("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const fields = event.target.elements;
  const wanted = { username: fields.username.value, password: fields.password.value };
  if (fields.organization.value) wanted.organization_name = fields.organization.value;
  try {
    const { answer, text } = await call("POST", "/api/auth/login", JSON.stringify(wanted));
    const result = JSON.parse(text);
    if (!answer.ok) throw new Error(result.message);
    use(result.token);
    find("login-problem").textContent = "";
    fields.password.value = "";
    find("login").close();
  } catch (error) {
    find("login-problem").textContent = error.message;
  }
});
find("filter").addEventListener("input", filter);
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.closest("input, textarea, dialog")) return;
  event.preventDefault();
  find("filter").focus();
});
showState();
call("GET", "/docs/openapi.json").then(({ text }) => show(JSON.parse(text))).catch((error) => {
  find("state").textContent = `the document cannot be loaded: ${error.message}`;
});
