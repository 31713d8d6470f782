/** The page: two inputs and options on the left, the result and recent videos on the right. */
import { Problem, get, isOver, post, request } from "./api.js";
import { Faces, facesAt } from "./faces.js";
import { Live } from "./live.js";
import { Options } from "./options.js";
import { Recent, filesOf, namesOf } from "./recent.js";
import { Source, acceptDrops } from "./source.js";
import { Speakers } from "./speakers.js";
import { Stage } from "./stage.js";
import { onLanguage, setLanguage, showError, t, writeLanguage } from "./texts.js";
import { Wave } from "./wave.js";
import { Ways } from "./ways.js";

const [form, banner] = [document.getElementById("work"), document.getElementById("banner")];
const limits = {};
const [faces, wave, options] = [new Faces(), new Wave(), new Options()];
const restored = JSON.parse(sessionStorage.getItem("inputs") ?? "{}");
const EARLY = 30; // seconds: a frame later in a long video takes long to decode
let testing = null;
let isSending = false;
let attempt = null; // a request without an answer is sent again under the same key

const stage = new Stage({
  onMoment: (time) => test(time),
  onLost: (isLost) => {
    banner.hidden = !isLost;
    banner.textContent = isLost ? t("lost") : "";
  },
  onChange: (video) => {
    if (!video) sessionStorage.removeItem("shown");
    recent.refresh();
  },
  onProgress: (video) => recent.update(video),
  onUse: useAgain,
});
const recent = new Recent({ onOpen: (video) => show(video, true) });
const live = new Live({
  ask: () => body([face], document.getElementById("live-error")),
  onFace: async (id) => {
    try {
      face.use(await get(`files/${id}`));
    } catch (error) {
      face.fail(error);
    }
  },
});
const face = new Source("face", limits, (file) => {
  faces.show(file, file && restored.face === file.id ? restored.select : null);
  inputsChanged();
});
const audio = new Source("audio", limits, (file) => {
  wave.show(file);
  inputsChanged();
});

const speakers = new Speakers({ first: audio, wave, faces, limits, onChange: inputsChanged });
faces.people = speakers;
const ways = new Ways({
  onEnter: () => {
    live.offer(recent.videos);
    speakers.rest(true);
  },
  onLeave: () => {
    live.stop();
    speakers.rest(false);
  },
});

/** Keep the inputs for a reload, and drop a test frame of others. */
function inputsChanged() {
  const inputs = { face: face.file?.id, audio: audio.file?.id, select: faces.select, people: speakers.kept };
  sessionStorage.setItem("inputs", JSON.stringify(inputs));
  form.classList.toggle("ready", [face, ...speakers.sources].every((source) => source.file));
  speakers.write();
  showError(document.getElementById("work-error"), null);
  testing?.abort();
  if (["tested", "testing"].includes(stage.state)) stage.clear();
}

/** Return the body of a request with some inputs; shows what is missing, and returns null. */
function body(inputs, error) {
  showError(error, null);
  const missing = inputs.find((source) => !source.file);
  if (missing) {
    showError(error, new Problem(t(`${missing.kind}_first`, missing.suffix())));
    missing.find(".choose").focus();
    return null;
  }
  try {
    if (inputs.length > 2) {
      return { face_id: face.file.id, model: options.model, options: options.values(), speakers: speakers.fields };
    }
    const chosen = { ...options.values(), ...(faces.faceSelect ? { face_select: faces.faceSelect } : {}) };
    const ids = Object.fromEntries(inputs.map(({ kind, file }) => [`${kind}_id`, file.id]));
    return { ...ids, model: options.model, options: chosen };
  } catch (problem) {
    showError(error, problem);
    return null;
  }
}

/** Make one test frame, at the loudest moment unless a time is given. Of several speakers, the current one's. */
async function test(time) {
  const asked = body([face, ...speakers.sources], document.getElementById("work-error"));
  if (!asked) return;
  const { wave } = speakers.current;
  testing?.abort();
  const { signal } = (testing = new AbortController());
  const length = faces.seconds ?? Infinity;
  const end = Math.min(length, wave.seconds);
  stage.testing();
  reveal();
  try {
    const moment = time ?? wave.loudest(Math.min(end, EARLY));
    const reply = await request("POST", "previews", { json: { ...asked, time: moment }, signal });
    const at = Number(reply.headers.get("X-Time") ?? moment);
    const dubbed = URL.createObjectURL(await reply.blob());
    const start = Number(asked.options.start ?? 0);
    const original = await facesAt(face.file.id, faces.seconds ? (start + at) % length : 0, signal);
    stage.tested({ dubbed, original: original.url, time: at, end });
  } catch (error) {
    if (error.name !== "AbortError") stage.clear(error);
  }
}

async function generate() {
  const asked = body([face, ...speakers.sources], document.getElementById("work-error"));
  if (!asked) return;
  if (isSending) return; // the button stays enabled: a disabled one would lose the focus
  isSending = true;
  testing?.abort();
  const text = JSON.stringify(asked);
  if (attempt?.text !== text) attempt = { text, key: crypto.getRandomValues(new Uint32Array(4)).join("-") };
  try {
    const video = await post("videos", asked, { headers: { "Idempotency-Key": attempt.key } });
    attempt = null;
    recent.add(video);
    await show(video, true);
    recent.refresh();
  } catch (error) {
    if (error.status) attempt = null;
    showError(document.getElementById("work-error"), error);
  } finally {
    isSending = false;
  }
}

async function show(video, scroll = false) {
  sessionStorage.setItem("shown", video.id);
  recent.mark(video.id);
  if (scroll) reveal();
  await stage.show(isOver(video) ? await get(`videos/${video.id}`) : video, namesOf(video));
}

/** Scroll to the result if it is not in view, as on a phone. */
function reveal() {
  const { top, bottom } = stage.root.getBoundingClientRect();
  const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (top > innerHeight - 160 || bottom < 160) stage.root.scrollIntoView({ behavior: isCalm ? "auto" : "smooth" });
}

async function useAgain(video) {
  const [oldFace, oldAudio] = await filesOf(video);
  speakers.clear();
  options.set(video.options ?? {}, video.model);
  Object.assign(restored, { face: video.face_id, select: video.options?.face_select ?? null });
  if (oldFace) face.use(oldFace);
  if (video.speakers?.length) {
    const unseen = video.speakers.some(({ face: place, photo_id: photo }) => place || photo) ? null : undefined;
    const faceOf = ({ face: place, photo_id: photo }) => place ?? (photo ? { photo_id: photo } : unseen);
    await usePeople(video.speakers.map((one) => ({ name: one.name, audio: one.audio_id, face: faceOf(one) })));
  } else if (oldAudio) audio.use(oldAudio);
  form.scrollIntoView();
  form.focus();
}

/** Show several speakers, with their audio if the service still has it. */
async function usePeople(people) {
  while (speakers.list.length < people.length) speakers.add({ focus: false });
  await Promise.all(
    people.map(async ({ name, audio: id, face: chosen }, index) => {
      const person = speakers.list[index];
      person.input.value = name;
      const photo = chosen?.photo_id && (await get(`files/${chosen.photo_id}`).catch(() => null));
      person.face = photo ? { photo_id: photo.id, name: photo.filename } : chosen?.photo_id ? undefined : chosen;
      const file = id && (await get(`files/${id}`).catch(() => null));
      if (file && person.source.file?.id !== id) person.source.use(file);
    }),
  );
  speakers.changed();
}

/** Show the inputs and the result from before a reload. */
async function restore() {
  for (const [source, id] of [[face, restored.face], [audio, restored.audio]]) {
    const file = id && (await get(`files/${id}`).catch(() => null)); // removed meanwhile: the input stays empty
    if (file && !source.file) source.use(file);
  }
  if (restored.people) await usePeople(restored.people);
  const shown = sessionStorage.getItem("shown");
  const newest = recent.videos.find((video) => video.id === shown);
  if (newest && stage.state === "empty") await show(newest);
}

function writeService() {
  document.getElementById("promise").textContent = t("promise", limits.keep_seconds);
  const devices = (limits.devices ?? []).join(", ");
  document.getElementById("service").textContent = limits.version ? t("service", limits.version, devices) : "";
}

async function begin() {
  writeLanguage();
  writeService();
  face.show("drop");
  audio.show("drop");
  acceptDrops(face, () => (ways.way === "live" ? [{ root: audio.root, take: (file) => live.take(file) }] : speakers.sources));
  try {
    Object.assign(limits, await get("limits"));
    for (const part of [face, ...speakers.sources]) part.write();
    speakers.write();
    writeService();
    options.offer((await get("models")).data);
  } catch (error) {
    return showError(banner, error);
  }
  await recent.refresh();
  live.offer(recent.videos);
  await restore();
}

for (const button of document.querySelectorAll("[data-language]")) {
  button.onclick = () => setLanguage(button.dataset.language);
}
document.getElementById("test").onclick = () => test();
form.onsubmit = (event) => {
  event.preventDefault();
  if (ways.way === "live") live.start();
  else generate();
};
faces.boxes.addEventListener("change", inputsChanged);
onLanguage(writeService);
begin();
