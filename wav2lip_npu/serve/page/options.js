/** The options of a dub, under the names of the command line. Only changed ones are sent. */
import { Problem } from "./api.js";
import { onLanguage, t } from "./texts.js";

const SWITCHES = { rest: ["auto", "off"], occlusion: ["auto", "off"], blend: ["soft", "hard"] };

export class Options {
  constructor() {
    this.root = document.getElementById("options");
    this.fields = [...this.root.querySelectorAll("[name]")];
    this.summary = this.root.querySelector(".changed");
    this.root.addEventListener("input", () => this.write());
    this.root.querySelector("#reset").onclick = () => this.set({});
    onLanguage(() => this.write());
  }

  /** Offer the models of the service. */
  offer(models) {
    const select = this.root.querySelector("[name=model]");
    select.replaceChildren(...models.map(({ id }) => new Option(id, id, id === "starter", id === "starter")));
    this.write();
  }

  get model() {
    return this.root.querySelector("[name=model]").value || "starter";
  }

  get changed() {
    return this.fields.filter((field) => field.value !== initial(field) || field.checked !== field.defaultChecked);
  }

  /** Return the changed options. Raises a Problem for a field without a valid number. */
  values() {
    const values = {};
    for (const field of this.changed) {
      const { name } = field;
      if (!field.validity.valid) {
        this.root.open = true;
        field.focus();
        throw new Problem(t("wrong_number", t(name)));
      }
      if (name === "model" || (field.type === "number" && field.value === "")) continue;
      if (name in SWITCHES) values[name] = SWITCHES[name][field.checked ? 0 : 1];
      else if (name === "pads") values[name] = [0, Number(field.value), 0, 0];
      else values[name] = name === "extend" ? field.value : Number(field.value);
    }
    return values;
  }

  /** Show the options of a video; those that are not in it have their defaults. */
  set(values, model = "starter") {
    for (const field of this.fields) {
      const value = field.name === "model" ? model : values[field.name];
      if (field.name in SWITCHES) field.checked = value === undefined || value === SWITCHES[field.name][0];
      else if (value === undefined) field.value = initial(field);
      else field.value = field.name === "pads" ? value[1] : value;
    }
    this.write();
  }

  write() {
    const { length } = this.changed;
    this.summary.textContent = length ? t("changed", length) : t("defaults");
    this.summary.classList.toggle("some", length > 0);
  }
}

function initial(field) {
  if (field.tagName !== "SELECT") return field.defaultValue || (field.type === "checkbox" ? "on" : "");
  return ([...field.options].find((option) => option.defaultSelected) ?? field.options[0])?.value ?? "";
}
