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
    this.legend = find(".boxes legend");
    this.people = null; // `Speakers`
    this.slider.oninput = () => this.writeTime();
    this.slider.onchange = () => this.look(Number(this.slider.value));
    onLanguage(() => this.write());
  }

  /** Show the faces of a stored file; null shows nothing. */
  async show(file, select = null) {
    this.looking?.abort();
    if (file?.id !== this.file?.id) this.people.forgetFaces();
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
      this.people.found();
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

  /** Choose the face with an option face_select. */
  choose(select = null) {
    const [x, y] = (select ?? "").split(",").map(Number);
    const faces = this.answer?.faces ?? [];
    const at = faces.findIndex(({ box: [left, top, right, bottom] }) => x >= left && x <= right && y >= top && y <= bottom);
    this.select = select;
    this.chosen = at < 0 ? this.first(faces) : at;
    this.paint();
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
      radio.onchange = () => {
        if (this.people.isOn) return this.people.choose(face);
        [this.chosen, this.select] = [index, face.face_select];
        this.write();
        announce(this.words.textContent);
      };
      label.append(radio, document.createElement("span"));
      this.boxes.append(label);
    });
    this.paint();
  }

  /** Write whose faces the boxes are. */
  paint() {
    const { isOn, current } = this.people;
    this.boxes.querySelectorAll("label").forEach((label, index) => {
      const owner = isOn && this.people.ownerOf(this.answer.faces[index]);
      const [radio, name] = label.children;
      radio.checked = isOn ? owner === current : index === this.chosen;
      name.textContent = owner ? this.people.nameOf(owner) : index + 1;
      if (owner) label.dataset.colour = owner.colour;
      else delete label.dataset.colour;
    });
    this.legend.textContent = isOn ? t("face_whose", this.people.nameOf(current)) : t("who_speaks");
    this.write();
  }

  reason(face) {
    return face.reason && (CODES.includes(face.reason) ? t(`reason_${face.reason}`) : face.reason);
  }

  write() {
    if (!this.answer) return;
    this.writeTime();
    const { faces } = this.answer;
    const { isOn, current } = this.people;
    this.boxes.querySelectorAll("input").forEach((radio, index) => {
      const owner = isOn && this.people.ownerOf(faces[index]);
      const whose = owner ? `, ${this.people.nameOf(owner)}` : "";
      radio.setAttribute("aria-label", t("face_name", index + 1, this.reason(faces[index])) + whose);
    });
    const chosen = isOn ? faces.find((face) => this.people.ownerOf(face) === current) : faces[this.chosen];
    const stays = chosen?.reason;
    const found = isOn ? t("faces_found_of", faces.length, this.people.nameOf(current)) : t("faces_found", faces.length);
    const words = faces.length ? found : t("faces_none", !this.scrub.hidden);
    this.words.textContent = stays ? `${words} ${t("stays", this.reason(chosen))}` : words;
    this.words.classList.toggle("warn", Boolean(stays) || !faces.length);
  }

  writeTime() {
    this.time.textContent = clock(Number(this.slider.value), true);
    this.slider.setAttribute("aria-valuetext", this.time.textContent);
  }
}
