/** Requests to the service. A failure is a Problem, with the code and the sentence of the server. */
import { showError, t } from "./texts.js";

export class Problem extends Error {
  constructor(message, status, code) {
    super(message);
    Object.assign(this, { status, code });
  }
}

/** Send a request, with an object as JSON or a text; ask for the token if the service wants one. Return the response. */
export async function request(method, path, { json, body, signal, headers = {} } = {}) {
  if (json !== undefined) [body, headers] = [JSON.stringify(json), { ...headers, "Content-Type": "application/json" }];
  for (;;) {
    let reply;
    try {
      reply = await fetch("v1/" + path, { method, body, headers, signal });
    } catch (error) {
      throw signal?.aborted ? error : new Problem(t("unreachable"), 0, "unreachable");
    }
    if (reply.ok) return reply;
    if (reply.status === 401 && (await askForToken())) continue;
    throw problemOf(await reply.text(), reply.status);
  }
}

export async function get(path, options) {
  return (await request("GET", path, options)).json();
}

export async function post(path, json, options) {
  return (await request("POST", path, { json, ...options })).json();
}

function problemOf(text, status) {
  try {
    const { detail, title, code } = JSON.parse(text);
    if (typeof detail === "string") return new Problem(detail, status, code);
    return new Problem(title || t("failed", status), status, code);
  } catch {
    return new Problem(t("failed", status), status, "unknown");
  }
}

/** Upload a file, reporting the share that was sent. Return the stored file. */
export async function upload(file, { onProgress = () => {}, signal } = {}) {
  for (;;) {
    const { status, text } = await send(file, onProgress, signal);
    if (status === 200) return JSON.parse(text);
    if (status === 401 && (await askForToken())) continue;
    throw problemOf(text, status);
  }
}

function send(file, onProgress, signal) {
  const sending = new XMLHttpRequest(); // fetch does not report how much was sent
  const form = new FormData();
  form.append("file", file, file.name);
  return new Promise((resolve, reject) => {
    sending.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    sending.onload = () => resolve({ status: sending.status, text: sending.responseText });
    sending.onerror = () => reject(new Problem(t("unreachable"), 0, "unreachable"));
    sending.onabort = () => reject(new DOMException("", "AbortError"));
    signal?.addEventListener("abort", () => sending.abort());
    sending.open("POST", "v1/files");
    sending.send(form);
  });
}

let asking = null;

/** Show the token dialog once for all requests that wait for it. Return whether a token was accepted. */
function askForToken() {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("token");
    const [field, error] = [dialog.querySelector("input"), dialog.querySelector(".error")];
    const close = (accepted) => {
      asking = null;
      dialog.onclose = null;
      dialog.close();
      field.value = "";
      resolve(accepted);
    };
    dialog.querySelector("form").onsubmit = async (event) => {
      event.preventDefault();
      const body = JSON.stringify({ token: field.value });
      const headers = { "Content-Type": "application/json" };
      const reply = await fetch("v1/session", { method: "POST", body, headers }).catch(() => null);
      if (reply?.ok) return close(true);
      showError(error, reply ? problemOf(await reply.text(), reply.status) : new Problem(t("unreachable")));
      field.select();
    };
    dialog.querySelector("button[type=button]").onclick = () => close(false);
    dialog.onclose = () => close(false); // Escape
    showError(error, null);
    dialog.showModal();
  });
  return asking;
}

export const isOver = (video) => ["completed", "failed", "cancelled"].includes(video.status);

const POLL_MS = 1000;
const REOPEN_MS = 5000;

/**
 * Follow a video by its events, and by polling while there is no event stream.
 * Calls onChange with fields of the video, onLost with whether the service is unreachable, and onEnd with the
 * whole video, or with null if it was removed. Returns a function that stops it.
 */
export function follow(id, { onChange, onLost, onEnd }) {
  let stream = null;
  let timer = 0;
  let stopped = false;
  let opened = 0;

  const stop = () => {
    stopped = true;
    clearTimeout(timer);
    stream?.close();
  };
  const end = (video) => {
    if (stopped) return;
    stop();
    onEnd(video);
  };
  const open = () => {
    opened = performance.now();
    stream = new EventSource(`v1/videos/${id}/events`); // reconnects by itself, with Last-Event-ID
    stream.onopen = () => {
      clearTimeout(timer);
      onLost(false);
    };
    stream.addEventListener("progress", (event) => onChange(JSON.parse(event.data)));
    stream.addEventListener("done", (event) => end(JSON.parse(event.data)));
    stream.addEventListener("deleted", () => end(null));
    stream.onerror = () => {
      clearTimeout(timer);
      timer = setTimeout(poll, POLL_MS);
    };
  };
  const poll = async () => {
    try {
      const video = await get(`videos/${id}`);
      if (stopped) return;
      onLost(false);
      if (isOver(video)) return end(video);
      onChange(video);
    } catch (error) {
      if (stopped) return;
      if (error.status === 404) return end(null);
      onLost(true);
    }
    if (stream.readyState === EventSource.OPEN) return;
    if (stream.readyState === EventSource.CLOSED && performance.now() - opened > REOPEN_MS) open();
    timer = setTimeout(poll, POLL_MS);
  };
  open();
  return stop;
}
