// What cannot be read: text too near its ground for WCAG AA (4.5 : 1), and controls that a screen reader finds no name for.
() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const colour = (text) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = text;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (text) => {
    const [red, green, blue] = colour(text).map((value) => {
      const part = value / 255;
      return part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const found = getComputedStyle(at).backgroundColor;
      if (colour(found)[3] > 250) return found;
    }
    return "white";
  };
  const faint = [];
  for (const element of document.querySelectorAll("body *")) {
    const hasText = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
    if (!hasText || !element.checkVisibility() || element.disabled || element.closest(".unseen, .skip, option")) continue;
    const [more, less] = [luminance(getComputedStyle(element).color), luminance(ground(element))].sort((a, b) => b - a);
    const contrast = (more + 0.05) / (less + 0.05);
    if (contrast < 4.5) faint.push(`${element.tagName}.${element.className} "${element.textContent.slice(0, 30)}" ${contrast.toFixed(2)}`);
  }
  const nameless = [...document.querySelectorAll("button, a, input, select, progress")]
    .filter((one) => one.checkVisibility() && !one.textContent.trim() && !one.getAttribute("aria-label") && !one.labels?.length)
    .map((one) => one.outerHTML.slice(0, 120));
  return { faint, nameless };
}
