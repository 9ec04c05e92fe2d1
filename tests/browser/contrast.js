// root => texts of ours whose contrast with their background is below 4.5 (WCAG 2 AA).
(root) => {
  const rgb = (c) => c.match(/[\d.]+/g).map(Number);
  const channel = (v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = (c) => { const [r, g, b] = rgb(c).map(channel); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor, parts = rgb(colour);
      if (parts.length < 4 || parts[3] > 0.9) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const faint = [];
  const ours = ".kd-slider label, .kd-slider .kd-help, .kd-title, .kd-legend span, .kd-status, figcaption, svg text";
  for (const e of root.querySelectorAll(ours)) {
    if (!e.textContent.trim()) continue;
    const style = getComputedStyle(e), ink = e.tagName === "text" ? style.fill : style.color;
    const [light, dark] = [luminance(ink), luminance(ground(e))].sort((x, y) => y - x), ratio = (light + 0.05) / (dark + 0.05);
    if (ratio < 4.5) faint.push(`${ratio.toFixed(2)} ${e.textContent.slice(0, 40)}`);
  }
  return faint;
}
