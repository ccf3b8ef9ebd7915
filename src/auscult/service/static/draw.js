// Pictures: scores over time, spectrograms with the anomaly map over them.

const SVG = "http://www.w3.org/2000/svg";

function shape(kind, attributes, text) {
  const element = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

export function clock(seconds, long) {
  const how = long ? { day: "2-digit", month: "2-digit" } : {};
  return new Date(seconds * 1000).toLocaleString([], { ...how, hour: "2-digit", minute: "2-digit", second: long ? undefined : "2-digit" });
}

// `told` is the answer of /scores; `alarms` are drawn as bands.
export function drawScores(svg, told, alarms, since, until) {
  const width = svg.clientWidth || 600, height = svg.clientHeight || 220;
  const left = 56, right = 12, top = 10, bottom = 26;
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const scores = told.scores.map(([, score]) => score);
  const values = told.threshold === null ? scores : [...scores, told.threshold];
  let low = values.reduce((a, b) => Math.min(a, b), Infinity), high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  if (!values.length) { low = 0; high = 1; }
  const room = (high - low || 1) * 0.08;
  low = low >= 0 ? Math.max(0, low - room) : low - room;
  high += room;
  const x = (t) => left + (Math.min(Math.max(t, since), until) - since) / (until - since) * (width - left - right);
  const y = (s) => top + (high - s) / (high - low) * (height - top - bottom);
  const band = (begin, end, kind) => svg.append(shape("rect", { class: kind, x: x(begin), y: top, width: Math.max(2, x(end) - x(begin)), height: height - top - bottom }));
  for (const [begin, end] of told.gaps) band(begin, end ?? until, "gap");
  for (const alarm of alarms) if ((alarm.ended ?? until) >= since && alarm.raised <= until) band(alarm.raised, alarm.ended ?? until, "alarm");
  for (let k = 0; k <= 3; k++) {
    const value = low + (high - low) * k / 3;
    svg.append(shape("line", { class: "axis", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    svg.append(shape("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, value.toPrecision(3)));
  }
  const steps = Math.max(2, Math.floor(width / 170));
  for (let k = 0; k <= steps; k++) {
    const t = since + (until - since) * k / steps;
    const anchor = k === 0 ? "start" : k === steps ? "end" : "middle";
    svg.append(shape("text", { x: x(t), y: height - 6, "text-anchor": anchor }, clock(t, until - since > 90000)));
  }
  let path = "", before = null;
  const usual = (until - since) / 300;
  for (const [time, score] of told.scores) {
    const begins = before === null || time - before > Math.max(usual, 30);
    // A line of no length, for its round ends to show a score that stands alone.
    path += `${begins ? "M" : "L"}${x(time).toFixed(1)} ${y(score).toFixed(1)}${begins ? "h0" : ""}`;
    before = time;
  }
  if (path) svg.append(shape("path", { class: "line", d: path }));
  if (told.threshold !== null) svg.append(shape("line", { class: "threshold", x1: left, x2: width - right, y1: y(told.threshold), y2: y(told.threshold) }));
}

function bytesOf(grid) {
  return Uint8Array.from(atob(grid.bytes), (c) => c.charCodeAt(0));
}

// Grey for what is heard, orange over it for what is stranger than four times the healthy level.
export function drawSpectrogram(canvas, logmel, map, overlay) {
  if (!logmel) return;
  const { rows, columns } = logmel;
  canvas.width = columns; canvas.height = rows;
  const context = canvas.getContext("2d"), picture = context.createImageData(columns, rows);
  const heard = bytesOf(logmel), strange = overlay && map ? bytesOf(map) : null;
  for (let row = 0; row < rows; row++) for (let column = 0; column < columns; column++) {
    const from = row * columns + column, to = 4 * ((rows - 1 - row) * columns + column);
    const grey = 14 + heard[from] * 0.86;
    let share = 0;
    if (strange) {
      const level = map.low + strange[from] / 255 * (map.high - map.low);
      share = Math.min(0.85, Math.max(0, Math.log2(Math.max(level, 1e-6) / 4) / 4));
    }
    picture.data[to] = grey * (1 - share) + 255 * share;
    picture.data[to + 1] = grey * (1 - share) + 120 * share;
    picture.data[to + 2] = grey * 1.08 * (1 - share) + 20 * share;
    picture.data[to + 3] = 255;
  }
  context.putImageData(picture, 0, 0);
}
