() => {
  const faults = [];
  const isShown = (element) => element.checkVisibility({ visibilityProperty: true });
  const named = (element) => `${element.tagName.toLowerCase()}.${element.className || element.id || element.name}`;

  for (const element of document.querySelectorAll("button, a[href], input, select, summary")) {
    const label = element.getAttribute("aria-label") || [...(element.labels ?? [])].map((one) => one.textContent).join("");
    const isField = ["INPUT", "SELECT"].includes(element.tagName);
    const name = label || (isField ? "" : element.textContent);
    if (isShown(element) && !name.trim()) faults.push(`no name: ${named(element)}`);
    if (isShown(element) && element.tabIndex < 0) faults.push(`not reachable: ${named(element)}`);
  }
  for (const image of document.querySelectorAll("img")) {
    if (!image.hasAttribute("alt")) faults.push(`no alt: ${named(image)}`);
  }
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  for (const id of new Set(ids)) if (ids.filter((other) => other === id).length > 1) faults.push(`id ${id} twice`);
  for (const attribute of ["aria-labelledby", "aria-describedby"]) {
    for (const element of document.querySelectorAll(`[${attribute}]`)) {
      if (!ids.includes(element.getAttribute(attribute))) faults.push(`${attribute} of ${named(element)} is missing`);
    }
  }
  if (document.querySelectorAll("h1").length !== 1) faults.push("not one h1");
  if (document.documentElement.scrollWidth > innerWidth) faults.push(`wider than the window: ${document.documentElement.scrollWidth}`);

  const parse = (colour) => (colour.match(/[\d.]+/g) ?? []).map(Number);
  const light = (rgb) => {
    const [r, g, b] = rgb.map((c) => ((c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const backgroundOf = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const [r, g, b, a = 1] = parse(getComputedStyle(one).backgroundColor);
      if (a > 0.5) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const isText = walker.currentNode.textContent.trim() && isShown(element);
    if (!isText || element.closest(".sr, .skip, :disabled, option, label:has(:disabled)")) continue;
    const [one, other] = [parse(getComputedStyle(element).color), backgroundOf(element)].map((rgb) => light(rgb.slice(0, 3)));
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (contrast < 4.5) faults.push(`contrast ${contrast.toFixed(1)}: ${named(element)} ${walker.currentNode.textContent.trim()}`);
  }
  return faults;
}
