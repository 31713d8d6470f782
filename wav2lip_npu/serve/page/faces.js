/** The frame of the face input with its faces as boxes, one of which speaks. */
import { post } from "./api.js";
import { announce, clock, explainIfSlow, onLanguage, showError, t } from "./texts.js";

const CODES = ["turned", "small", "covered"];

/** Detect the faces of a stored file at a time. Return the answer of the service and the frame as a blob URL. */
export async function facesAt(id, time, signal) {
  const answer = await post("faces", { file_id: id, time }, { signal });
  const jpeg = Uint8Array.from(atob(answer.picture), (letter) => letter.charCodeAt(0));
  return { ...answer, url: URL.createObjectURL(new Blob([jpeg], { type: "image/jpeg" })) };
}

export class Faces {
  constructor() {
    this.root = document.getElementById("face");
    const find = (selector) => this.root.querySelector(selector);
    this.viewer = find(".viewer");
    [this.image, this.boxes, this.words] = [find(".picture img"), find(".boxes"), find(".found")];
    [this.scrub, this.slider, this.time] = [find(".scrub"), find(".scrub input"), find(".scrub output")];
    this.slider.oninput = () => this.writeTime();
    this.slider.onchange = () => this.look(Number(this.slider.value));
    onLanguage(() => this.write());
  }

  /** Show the faces of a stored file; null shows nothing. */
  async show(file, select = null) {
    this.looking?.abort();
    Object.assign(this, { file, answer: null, chosen: 0, select });
    this.viewer.hidden = !file;
    this.image.hidden = true;
    this.draw();
    if (!file) return;
    this.writeLength();
    const at = Number(/@([\d.]+)$/.exec(select ?? "")?.[1] ?? 0);
    await this.look(at);
    const isEmpty = this.answer && !this.answer.faces.length;
    if (isEmpty && this.seconds && this.file === file && !at) await this.look(this.seconds / 2);
  }

  /** Length of the video; null for a photo. */
  get seconds() {
    return this.answer?.seconds ?? (this.file?.media.kind === "video" ? this.file.media.seconds : null);
  }

  writeLength() {
    this.scrub.hidden = !this.seconds;
    this.slider.max = Math.max(0, (this.seconds ?? 0) - 0.04);
  }

  async look(time) {
    this.looking?.abort();
    const looking = (this.looking = new AbortController());
    this.slider.value = time;
    this.writeTime();
    this.words.textContent = t("looking");
    this.viewer.classList.add("busy");
    const ended = explainIfSlow(this.words);
    showError(this.root, null);
    try {
      const answer = await facesAt(this.file.id, time, looking.signal);
      if (this.looking !== looking) return URL.revokeObjectURL(answer.url);
      if (this.answer) URL.revokeObjectURL(this.answer.url);
      this.answer = answer;
      this.chosen = this.first(answer.faces);
      this.image.src = answer.url;
      this.image.hidden = false;
      this.writeLength();
      this.slider.value = answer.time;
      this.draw();
      this.write();
    } catch (error) {
      if (error.name === "AbortError" || this.looking !== looking) return;
      this.words.textContent = "";
      showError(this.root, error);
    } finally {
      ended();
      if (this.looking === looking) this.viewer.classList.remove("busy");
    }
  }

  /** The face that was chosen before, or the largest, which the service takes by itself. */
  first(faces) {
    const before = faces.findIndex((face) => face.face_select === this.select);
    if (before >= 0) return before;
    const areas = faces.map(({ box: [left, top, right, bottom] }) => (right - left) * (bottom - top));
    return Math.max(0, areas.indexOf(Math.max(...areas)));
  }

  /** The option face_select: null for the only face of a frame. */
  get faceSelect() {
    const faces = this.answer?.faces ?? [];
    return faces.length > 1 ? faces[this.chosen].face_select : this.select;
  }

  draw() {
    this.boxes.querySelectorAll("label").forEach((label) => label.remove());
    if (!this.answer) return;
    const { width, height, faces } = this.answer;
    faces.forEach((face, index) => {
      const label = document.createElement("label");
      const radio = Object.assign(document.createElement("input"), { type: "radio", name: "who" });
      const [left, top, right, bottom] = face.box;
      Object.assign(label.style, {
        left: `${(100 * left) / width}%`,
        top: `${(100 * top) / height}%`,
        width: `${(100 * (right - left)) / width}%`,
        height: `${(100 * (bottom - top)) / height}%`,
      });
      label.classList.toggle("stays", Boolean(face.reason));
      radio.checked = index === this.chosen;
      radio.onchange = () => {
        [this.chosen, this.select] = [index, face.face_select];
        this.write();
        announce(this.words.textContent);
      };
      label.append(radio, Object.assign(document.createElement("span"), { textContent: index + 1 }));
      this.boxes.append(label);
    });
  }

  reason(face) {
    return face.reason && (CODES.includes(face.reason) ? t(`reason_${face.reason}`) : face.reason);
  }

  write() {
    if (!this.answer) return;
    this.writeTime();
    const { faces } = this.answer;
    this.boxes.querySelectorAll("input").forEach((radio, index) => {
      radio.setAttribute("aria-label", t("face_name", index + 1, this.reason(faces[index])));
    });
    const stays = faces[this.chosen]?.reason;
    const words = faces.length ? t("faces_found", faces.length) : t("faces_none", !this.scrub.hidden);
    this.words.textContent = stays ? `${words} ${t("stays", this.reason(faces[this.chosen]))}` : words;
    this.words.classList.toggle("warn", Boolean(stays) || !faces.length);
  }

  writeTime() {
    this.time.textContent = clock(Number(this.slider.value), true);
    this.slider.setAttribute("aria-valuetext", this.time.textContent);
  }
}
