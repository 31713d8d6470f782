/** Several people who speak: each with a name, audio and a face in a frame. One person is the plain form. */
import { Problem, upload } from "./api.js";
import { Source } from "./source.js";
import { announce, fill, onLanguage, showError, t } from "./texts.js";
import { Wave } from "./wave.js";

const COLOURS = 8;
const SAME_FRAME = 0.02; // seconds

export class Speakers {
  /** `first` and `wave` are the audio of the form, `faces` shows the frame; calls onChange() at each change. */
  constructor({ first, wave, faces, limits, onChange }) {
    Object.assign(this, { faces, limits, onChange });
    this.list = [this.person(first, wave)];
    this.current = this.list[0];
    [this.place, this.more] = [document.getElementById("voices"), document.getElementById("add-speaker")];
    this.chips = document.querySelector("#face .people");
    this.unseen = document.querySelector("#face .unseen");
    this.more.onclick = () => this.add();
    this.unseen.querySelector("input").onchange = () => this.choose(null);
    [this.photo, this.error] = [document.querySelector("#face .photo"), document.querySelector("#face > .error")];
    this.photo.querySelector("button").onclick = () => this.askForPhoto();
    onLanguage(() => this.write());
    this.write();
  }

  /** Whether there are several. */
  get isOn() {
    return this.list.length > 1 && !this.isResting;
  }

  /** Rest while the page speaks live: a stream has one speaker. */
  rest(isResting) {
    this.isResting = isResting;
    this.write();
    this.faces.paint();
  }

  get sources() {
    return this.list.map(({ source }) => source);
  }

  person(source, wave) {
    const row = document.getElementById("who").content.firstElementChild.cloneNode(true);
    const [input, remove] = [row.querySelector("input"), row.querySelector(".remove")];
    const used = new Set((this.list ?? []).map(({ colour }) => colour));
    const colour = [...Array(COLOURS).keys()].find((number) => !used.has(number)) ?? 0;
    const person = { source, wave, row, input, colour, face: undefined }; // a place; null: not seen
    source.root.querySelector("h2").after(row);
    row.dataset.colour = colour;
    source.suffix = () => (this.isOn ? `, ${this.nameOf(person)}` : "");
    input.oninput = () => this.changed(); // an error that goes at the loss of the focus would move the button away
    remove.onclick = () => this.remove(person);
    return person;
  }

  nameOf(person) {
    return person.input.value.trim() || t("speaker", this.list.indexOf(person) + 1);
  }

  /** Add a person, who gets a face of the frame that nobody has. Return it. */
  add({ focus = true } = {}) {
    const { answer, chosen } = this.faces;
    if (this.list.length === 1 && answer?.faces.length) this.list[0].face = faceOf(answer.faces[chosen], answer.time);
    const card = document.getElementById("another-voice").content.firstElementChild.cloneNode(true);
    this.place.append(card);
    fill(card);
    const wave = new Wave(card);
    const source = new Source("audio", this.limits, (file) => (wave.show(file), this.onChange()), card);
    source.show("drop");
    const person = this.person(source, wave);
    this.list.push(person);
    fill(person.row);
    this.current = person;
    this.found();
    this.changed();
    if (focus) person.input.focus();
    return person;
  }

  /** Remove a person. The first is the form: the second takes its place. */
  remove(person) {
    this.drop(person);
    this.changed();
    this.more.focus();
    announce(t("speaker_removed"));
  }

  drop(person) {
    const index = this.list.indexOf(person);
    const gone = index ? person : this.list[1];
    if (!index) {
      person.input.value = gone.input.value;
      person.face = gone.face;
      person.source.reset();
      if (gone.source.file) person.source.use(gone.source.file);
    }
    this.list = this.list.filter((one) => one !== gone);
    gone.source.reset();
    gone.source.root.remove();
    if (!this.list.includes(this.current)) this.current = this.list[0];
    if (this.list.length === 1) this.faces.choose(isPhoto(this.list[0].face) ? null : this.list[0].face?.split("@")[0]);
  }

  /** Remove all but the first. */
  clear() {
    while (this.list.length > 1) this.drop(this.list[1]);
    this.list[0].face = undefined;
    this.list[0].input.value = "";
    this.changed();
  }

  /** Give the current person a face of the frame, or none. */
  choose(face) {
    const owner = face && this.ownerOf(face);
    showError(this.error, null);
    if (owner && owner !== this.current) owner.face = null;
    this.current.face = face && faceOf(face, this.faces.answer.time);
    this.changed();
    announce(face ? t("face_chosen", this.nameOf(this.current)) : t("unseen"));
  }

  askForPhoto() {
    const [person, input] = [this.current, document.createElement("input")];
    Object.assign(input, { type: "file", accept: "image/*,.heic" });
    input.onchange = () => this.takePhoto(person, input.files[0]);
    input.click();
  }

  /** Upload a photo of a person. */
  async takePhoto(person, file) {
    showError(this.error, null);
    announce(t("photo_sending", file.name));
    try {
      const { id, filename, media } = await upload(file);
      if (media.kind !== "image") throw new Problem(t("not_photo", filename));
      if (!this.list.includes(person)) return;
      person.face = { photo_id: id, name: filename };
      this.changed();
      announce(t("photo_of", filename));
    } catch (problem) {
      showError(this.error, problem);
    }
  }

  /** The person who has a face of the frame. */
  ownerOf({ box: [left, top, right, bottom] }) {
    return this.list.find(({ face }) => {
      const [x, y, time] = placeOf(face);
      return Math.abs(time - this.faces.answer.time) < SAME_FRAME && x >= left && x <= right && y >= top && y <= bottom;
    });
  }

  /** Faces were found: those that nobody has are, from left to right, those of people without one. */
  found() {
    if (!this.isOn || !this.faces.answer) return;
    const free = this.faces.answer.faces.filter((face) => !this.ownerOf(face)).sort((one, other) => one.box[0] - other.box[0]);
    for (const person of this.list) {
      if (person.face === undefined && free.length) person.face = faceOf(free.shift(), this.faces.answer.time);
    }
    this.write();
  }

  /** The face file is another one, which photos may show as well. */
  forgetFaces() {
    for (const person of this.list) if (!isPhoto(person.face)) person.face = undefined;
  }

  changed() {
    this.write();
    this.faces.paint();
    this.onChange();
  }

  /** The field `speakers` of a request. Throws a Problem if a name cannot be used. */
  get fields() {
    const names = this.list.map((person) => this.nameOf(person));
    for (const [index, name] of names.entries()) {
      const problem = /[=@]/.test(name) ? "not_name" : names.indexOf(name) < index ? "same_name" : null;
      if (!problem) continue;
      this.list[index].input.focus();
      throw new Problem(t(problem, name));
    }
    return this.list.map((person) => ({
      name: this.nameOf(person),
      audio_id: person.source.file.id,
      ...(person.face ? { face: isPhoto(person.face) ? { photo_id: person.face.photo_id } : person.face } : {}),
    }));
  }

  /** What a reload needs. */
  get kept() {
    if (this.list.length === 1) return null;
    return this.list.map(({ input, source, face }) => ({ name: input.value, audio: source.file?.id, face }));
  }

  write() {
    const count = this.list.length;
    this.more.hidden = !this.faces.file || count >= Math.min(COLOURS, this.limits.max_speakers ?? COLOURS);
    this.chips.hidden = this.unseen.hidden = this.photo.hidden = !this.isOn;
    for (const person of this.list) {
      person.row.hidden = !this.isOn;
      person.input.placeholder = t("speaker", this.list.indexOf(person) + 1);
      person.row.querySelector(".remove").setAttribute("aria-label", t("remove_name", this.nameOf(person)));
      person.source.root.setAttribute("aria-label", this.isOn ? `${t("audio")}${person.source.suffix()}` : t("audio"));
      person.source.write();
    }
    const { face } = this.current;
    this.unseen.querySelector("input").checked = this.isOn && !face;
    const [chosen] = this.photo.children;
    chosen.hidden = !isPhoto(face);
    chosen.firstChild.checked = this.isOn && isPhoto(face);
    chosen.lastChild.textContent = isPhoto(face) ? t("photo_of", face.name ?? "") : "";
    this.chips.querySelector("legend").textContent = t("face_of");
    if (!this.chips.contains(document.activeElement)) this.writeChips();
  }

  writeChips() {
    this.chips.querySelectorAll("label").forEach((label) => label.remove());
    for (const person of this.list) {
      const label = document.createElement("label");
      const radio = Object.assign(document.createElement("input"), { type: "radio", name: "person" });
      radio.checked = person === this.current;
      radio.onchange = () => this.turnTo(person);
      const words = Object.assign(document.createElement("span"), { textContent: this.nameOf(person) });
      words.dataset.colour = person.colour;
      label.append(radio, words);
      this.chips.append(label);
    }
  }

  /** Choose faces of a person from now on; show the frame in which theirs was chosen. */
  turnTo(person) {
    this.current = person;
    const [, , time] = placeOf(person.face);
    if (Math.abs(time - this.faces.answer?.time) >= SAME_FRAME) this.faces.look(time);
    this.write();
    this.faces.paint();
  }
}

/** The field `face` of a speaker: a point in a frame. */
function faceOf({ box: [left, top, right, bottom] }, time) {
  return `${Math.round((left + right) / 2)},${Math.round((top + bottom) / 2)}@${time.toFixed(3)}`;
}

function isPhoto(face) {
  return Boolean(face?.photo_id);
}

function placeOf(face) {
  const [, ...place] = /^([\d.]+),([\d.]+)@([\d.]+)$/.exec(face ?? "") ?? [];
  return place.length ? place.map(Number) : [NaN, NaN, NaN];
}
