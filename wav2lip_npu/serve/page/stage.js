/** The result: one test frame, or a video from waiting to finished. */
import { follow, get, isOver, post } from "./api.js";
import { Compare } from "./compare.js";
import { turnsOf } from "./turns.js";
import { announce, clock, duration, number, onLanguage, rate, showError, t } from "./texts.js";

const GOOD = 0.25; // confidence of the bundled SyncNet: originals 0.30 on average, audio of another clip 0.09
const FAIR = 0.15;
const SPANS = 6; // spans as filmed that are listed

export class Stage {
  /**
   * Calls onChange(video) when the status of the video changes, with null if it was removed, onProgress(video)
   * at each progress, onUse(video) to use its inputs again, onMoment(time) for another test frame, and
   * onLost(whether the service is unreachable).
   */
  constructor({ onChange, onProgress, onUse, onMoment, onLost }) {
    Object.assign(this, { onChange, onProgress, onLost, state: "empty", video: null, names: "" });
    this.root = document.getElementById("stage");
    this.find = (selector) => this.root.querySelector(selector);
    this.compare = new Compare(this.find(".compare"));
    this.find(".cancel").onclick = () => this.cancel();
    this.find(".again").onclick = () => onUse(this.video);
    [this.moment, this.slider] = [this.find(".moment"), this.find(".moment input")];
    this.slider.oninput = () => this.writeMoment();
    this.slider.onchange = () => onMoment(Number(this.slider.value));
    onLanguage(() => this.write());
    this.write();
  }

  /** Show nothing, with an error of the service if there is one. */
  clear(error = null) {
    this.leave();
    this.set("empty", error);
  }

  leave() {
    this.stop?.();
    this.stop = null;
    this.onLost(false);
    this.compare.clear();
    this.blobs?.forEach((url) => URL.revokeObjectURL(url));
    Object.assign(this, { video: null, names: "", blobs: null, said: null });
    this.moment.hidden = true;
  }

  set(state, error = null) {
    const hadFocus = this.root.contains(document.activeElement) && document.activeElement !== document.body;
    this.state = this.root.dataset.state = state;
    showError(this.root, error);
    this.write();
    if (hadFocus && document.activeElement.checkVisibility?.() === false) this.find("h2").focus();
  }

  /** Show that a test frame is being made. */
  testing() {
    if (this.state === "tested") return this.root.setAttribute("aria-busy", "true");
    this.leave();
    this.set("testing");
  }

  /** Show a test frame and the same frame of the original, both blob URLs, at a time of `end` seconds. */
  tested({ dubbed, original, time, end }) {
    const hadFocus = document.activeElement === this.slider;
    this.leave();
    this.blobs = [dubbed, original];
    this.compare.show({ url: dubbed, kind: "image" }, { url: original, kind: "image" });
    this.moment.hidden = !end;
    this.slider.max = Math.max(0, end - 0.04);
    this.slider.value = time;
    this.writeMoment();
    this.root.removeAttribute("aria-busy");
    this.set("tested");
    if (hadFocus) this.slider.focus();
    announce(t("tested"));
  }

  writeMoment() {
    this.find(".moment output").textContent = clock(Number(this.slider.value), true);
    this.slider.setAttribute("aria-valuetext", this.find(".moment output").textContent);
  }

  /** Show a video, and follow it until it is over. `names` are those of its files. */
  async show(video, names) {
    this.leave();
    Object.assign(this, { video, names });
    this.root.removeAttribute("aria-busy");
    if (isOver(video)) return this.end(video);
    this.set("running");
    announce(t(video.status));
    this.stop = follow(video.id, {
      onChange: (fields) => this.change(fields),
      onLost: this.onLost,
      onEnd: (last) => this.end(last),
    });
  }

  change(fields) {
    const isNew = fields.status !== this.video.status;
    this.video = { ...this.video, ...fields };
    this.write();
    const quarter = Math.floor((this.video.progress ?? 0) / 25);
    if (this.said !== quarter && this.video.status === "in_progress") {
      this.said = quarter;
      announce(t("said_progress", Math.round(this.video.progress), this.left()));
    }
    this.onProgress(this.video);
    if (isNew) this.onChange(this.video);
  }

  async end(video) {
    this.stop = null;
    this.onLost(false);
    this.onChange(video);
    if (!video) return this.set("over", { message: t("gone") });
    const wasRunning = this.state === "running";
    this.video = video;
    if (wasRunning) announce(t(video.status === "failed" ? "failed_job" : video.status));
    if (video.status !== "completed") return this.set("over", video.error);
    this.find(".save").href = `v1/videos/${video.id}/content`;
    this.find(".full").href = `v1/videos/${video.id}/content?variant=report`;
    this.set("done");
    const face = await get(`files/${video.face_id}`).catch(() => null); // removed: only the result is shown
    if (this.video?.id === video.id) this.showResult(video, face);
  }

  showResult(video, face) {
    const fps = video.report ? rate(video.report.fps) : 25;
    const options = video.options ?? {};
    const isVideo = face?.media.kind === "video";
    this.compare.show(
      { url: `v1/videos/${video.id}/content`, kind: "video", hasAudio: true },
      face && { url: `v1/files/${face.id}/content`, kind: isVideo ? "video" : "image", hasAudio: face.media.has_audio },
      { seconds: face?.media.video_seconds, extend: options.extend, start: Number(options.start ?? 0), fps },
    );
  }

  async cancel() {
    if (this.isCancelling) return;
    this.isCancelling = true;
    try {
      const video = await post(`videos/${this.video.id}/cancel`);
      if (isOver(video) && this.stop) {
        this.stop();
        this.end(video);
      }
    } catch (error) {
      showError(this.root, error);
    } finally {
      this.isCancelling = false;
    }
  }

  left() {
    const { seconds_left: left } = this.video;
    return left === null || left === undefined ? "" : t("about", left);
  }

  write() {
    const { state, video } = this;
    const title = { empty: "result", testing: "testing", tested: "tested" }[state];
    const status = video?.status === "failed" ? "failed_job" : video?.status;
    this.find("h2").textContent = t(title ?? status ?? "result");
    this.find(".of").textContent = this.names;
    this.find(".again").hidden = !video;
    if (state === "running") this.writeProgress();
    if (state === "done") this.writeReport();
  }

  writeProgress() {
    const { status, progress = 0, stage, frames, frames_done: done, fps, queue_position: place } = this.video;
    const isQueued = status === "queued";
    const percent = Math.round(progress);
    const doing = isQueued ? t("queue", (place ?? 1) - 1) : t("stage", stage);
    this.find(".number").textContent = isQueued ? "" : `${percent} %`;
    this.find(".doing").textContent = doing;
    const bar = this.find(".bar");
    bar.classList.toggle("unknown", isQueued || (!done && !percent));
    bar.setAttribute("aria-valuenow", percent);
    bar.setAttribute("aria-valuetext", `${percent} %, ${doing}`);
    bar.firstElementChild.style.width = `${percent}%`;
    const facts = [
      ["frames", done || frames ? t("frames_of", done ?? 0, frames) : ""],
      ["speed", fps ? t("fps", fps) : ""],
      ["left", this.left()],
    ];
    this.find(".facts").replaceChildren(
      ...facts.map(([name, value]) => {
        const pair = document.createElement("div");
        pair.append(element("dt", t(name)), element("dd", value || "–"));
        return pair;
      }),
    );
  }

  writeReport() {
    const { report, options } = this.video;
    this.find(".report").replaceChildren(...(report ? linesOf(report, this.video) : []));
    this.find(".turns")?.remove();
    const turns = turnsOf(report, Number(options?.start ?? 0));
    if (turns) this.find(".report").after(turns);
  }
}

function element(tag, text) {
  return Object.assign(document.createElement(tag), { textContent: text });
}

function line(kind, text) {
  const item = document.createElement("li");
  item.className = kind;
  item.innerHTML = `<svg aria-hidden="true"><use href="#i-${kind}"/></svg>`;
  item.append(element("span", text));
  return item;
}

/** The report in words. */
function linesOf(report, video) {
  const { check, frames, dubbed_frames: dubbed } = report;
  const lines = [];
  if (check && check.confidence === null) lines.push(line("note", t("sync_short")));
  else if (check) {
    const word = check.confidence >= GOOD ? "sync_good" : check.confidence >= FAIR ? "sync_fair" : "sync_poor";
    lines.push(line(word === "sync_poor" ? "warn" : "yes", t(word, check.confidence)));
    const { offset } = check;
    const words = offset > 0 ? t("offset_early", offset) : offset < 0 ? t("offset_late", offset) : t("offset_none");
    lines.push(line(Math.abs(offset) > 1 ? "warn" : "yes", words));
  }
  if (dubbed === frames) lines.push(line("yes", t("all_dubbed", frames)));
  else {
    const isCalm = report.unchanged_spans.every(([, , reason]) => reason === "listening"); // nobody speaks
    lines.push(line(isCalm ? "note" : "warn", `${t("some_dubbed", dubbed, frames)}: ${spansOf(report)}`));
  }
  const taken = report.seconds ?? video.completed_at - video.started_at;
  lines.push(line("note", t("made", report, taken)));
  return lines;
}

function spansOf({ unchanged_spans: spans, fps }) {
  const each = rate(fps);
  const words = { no_face: "reason_no_face", skip: "reason_skip" };
  const said = spans.slice(0, SPANS).map(([first, last, reason]) => t("span", first / each, (last + 1) / each, t(words[reason] ?? `short_${reason}`) ?? reason));
  if (spans.length > SPANS) said.push(t("more_spans", spans.length - SPANS));
  return said.join(", ");
}
