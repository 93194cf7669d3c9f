"use strict";
// Small tools and the charts. Text of users' files only ever becomes text nodes.

const SVG = "http://www.w3.org/2000/svg";
const LEFT = 52; // where every plot begins, so that one cursor crosses them all
const RIGHT = 12;
const $ = (id) => document.getElementById(id);

/** An element with attributes and children; strings become text. */
function el(name, attributes = {}, ...children) {
  return dress(document.createElement(name), attributes, children);
}

function svg(name, attributes = {}, ...children) {
  return dress(document.createElementNS(SVG, name), attributes, children);
}

function dress(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** A number as one reads it: few digits, a true minus, a dash for nothing. */
function number(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  let text;
  if (Number.isInteger(value) && size < 1e6) text = String(value);
  else if (size >= 1e5 || size < 1e-3) text = value.toExponential(1);
  else text = value.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : 3);
  return text.replace(/-/g, "−");
}

function count(n, word) {
  return `${n} ${word}${n === 1 ? "" : "s"}`;
}

/** A scale from an interval to pixels; an empty interval lies in the middle. */
function scale([low, high], [from, to]) {
  if (!(high > low)) return () => (from + to) / 2;
  return (value) => from + ((value - low) / (high - low)) * (to - from);
}

function widened(low, high) {
  const room = high > low ? (high - low) * 0.06 : Math.max(Math.abs(low) * 0.1, 0.1);
  return [low - room, high + room];
}

function path(points, x, y) {
  const place = ([a, b]) => `${x(a).toFixed(1)} ${y(b).toFixed(1)}`;
  return points.length ? "M" + points.map(place).join("L") : "";
}

/** Round numbers of steps for an axis. */
function ticks(last, wanted) {
  const rough = Math.max(last / wanted, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const unit = [1, 2, 5, 10].map((m) => m * power).find((u) => u >= rough);
  const all = [];
  for (let at = 0; at <= last; at += unit) all.push(at);
  return all;
}

/** The x scale of an episode's curves; the player shares it. */
function stepScale(steps, width) {
  return scale([0, Math.max(steps, 1)], [LEFT, width - RIGHT]);
}

/**
 * One reward's curve: {node, show(step)}. `range` is that of all episodes, so that a
 * curve that never moves looks like one.
 */
function curvePanel(info, curve, total, range, episode, width) {
  const HEIGHT = 78;
  const x = stepScale(episode.steps, width);
  const y = scale(widened(...range), [HEIGHT - 8, 8]);
  const reading = el("span", { class: "reading" });
  const picture = svg("svg", {
    viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, "aria-hidden": "true",
  });
  for (const [from, to] of episode.success_steps) {
    const start = x(from - 0.5);
    const wide = Math.max(Math.min(x(to + 0.5), width - RIGHT) - start, 2);
    picture.append(
      svg("rect", { class: "win", x: start, y: 0, width: wide, height: HEIGHT }),
      svg("line", { class: "win-edge", x1: start, x2: start, y1: 0, y2: HEIGHT }),
    );
  }
  const here = svg("circle", { class: "here", r: 4.5, visibility: "hidden" });
  let spoken;
  if (!curve.length) {
    spoken = "nothing was due";
    picture.append(
      svg("text", { class: "nothing", x: LEFT, y: HEIGHT / 2 + 4 }, spoken),
    );
  } else {
    const [low, high] = range;
    const marks = high > low ? [low, high] : [low];
    if (low <= 0 && high >= 0) {
      const zero = y(0);
      picture.append(
        svg("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: zero, y2: zero }));
      if (marks.every((value) => Math.abs(y(value) - zero) > 13)) marks.push(0);
    }
    for (const value of marks) {
      picture.append(
        svg("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, number(value)),
      );
    }
    picture.append(svg("path", { class: `line ${info.role}`, d: path(curve, x, y) }));
    // Where a reward comes rarely, when it came is half the message.
    if (curve.length <= 40) {
      for (const [step, value] of curve) {
        picture.append(svg("circle", { class: "point", r: 2.2, cx: x(step), cy: y(value) }));
      }
    }
    const values = curve.map(([, value]) => value);
    spoken = `from ${number(Math.min(...values))} to ${number(Math.max(...values))}`;
    picture.append(here);
  }
  const name = el("span", {}, el("b", {}, info.label));
  if (info.role !== "reward") name.append(el("span", { class: "role" }, info.role));
  const node = el("div", { class: "panel", role: "group",
    "aria-label": `${info.label}, ${info.role}: ${spoken}` },
    el("div", { class: "caption" }, name, reading), picture);
  if (info.about) node.title = info.about;

  function show(step) {
    let last = null;
    for (const point of curve) {
      if (point[0] > step) break;
      last = point;
    }
    here.setAttribute("visibility", last ? "visible" : "hidden");
    if (!curve.length) return;
    if (!last) {
      reading.replaceChildren(`first due at step ${curve[0][0]}`);
      return;
    }
    here.setAttribute("cx", x(last[0]));
    here.setAttribute("cy", y(last[1]));
    const since = last[0] === step ? "" : ` at step ${last[0]}`;
    reading.replaceChildren(
      el("span", {}, el("b", {}, number(last[1])), since, " ·"),
      " ", el("span", {}, `sum ${number(total)}`));
  }
  return { node, show };
}

/** The axis under the curves, and in words when the episode was a success. */
function stepAxis(episode, width) {
  const x = stepScale(episode.steps, width);
  const picture = svg("svg", {
    viewBox: `0 0 ${width} 22`, height: 22, "aria-hidden": "true",
  });
  for (const at of ticks(episode.steps, width > 420 ? 8 : 4)) {
    const end = x(at) > width - 90 && at !== 0;
    if (end) continue;
    picture.append(svg("text", { x: x(at), y: 16, "text-anchor": "middle" }, String(at)));
  }
  picture.append(
    svg("text", { x: width - RIGHT, y: 16, "text-anchor": "end" },
      `${count(episode.steps, "step")}`));
  return picture;
}

/** The row over the curves that says where the success is. */
function successRow(episode, width) {
  const first = episode.success_steps[0][0];
  const at = stepScale(episode.steps, width)(first - 0.5);
  const late = at > width / 2;
  const picture = svg("svg", {
    viewBox: `0 0 ${width} 20`, height: 20, "aria-hidden": "true",
  });
  picture.append(svg("text", {
    class: "win-word", x: late ? at - 5 : at + 5, y: 15,
    "text-anchor": late ? "end" : "start",
  }, late ? `success from step ${first} ✓` : `✓ success from step ${first}`));
  picture.append(svg("line", { class: "win-edge", x1: at, x2: at, y1: 2, y2: 20 }));
  return picture;
}

/** The colours from the least to the greatest value, of the theme in force. */
function ramp() {
  const stops = getComputedStyle(document.documentElement).getPropertyValue("--ramp")
    .split(",").map((stop) => stop.trim().split(/\s+/).map(Number));
  return (share) => {
    const at = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
    const i = Math.min(Math.floor(at), stops.length - 2);
    return stops[i].map((from, k) => Math.round(from + (at - i) * (stops[i + 1][k] - from)));
  };
}

/** A matrix as it came, {shape, low, high, cells}, with a look-up by shares of time. */
function unpackMatrix(packed) {
  const cells = Uint8Array.from(atob(packed.cells), (c) => c.charCodeAt(0));
  const [rows, columns] = packed.shape;
  const index = (share, n) => Math.round(Math.min(Math.max(share, 0), 1) * (n - 1));
  function at(agent, goal) {
    const cell = cells[index(agent, rows) * columns + index(goal, columns)];
    return cell === 255 ? null : packed.low + (cell / 254) * (packed.high - packed.low);
  }
  return { ...packed, cells, rows, columns, at };
}

/** Episode time to the right, goal time upwards. */
function drawMatrix(canvas, matrix) {
  canvas.width = matrix.rows;
  canvas.height = matrix.columns;
  const context = canvas.getContext("2d");
  const image = context.createImageData(matrix.rows, matrix.columns);
  const colour = ramp();
  for (let a = 0; a < matrix.rows; a++) {
    for (let g = 0; g < matrix.columns; g++) {
      const cell = matrix.cells[a * matrix.columns + g];
      const to = 4 * ((matrix.columns - 1 - g) * matrix.rows + a);
      if (cell === 255) continue;
      image.data.set([...colour(cell / 254), 255], to);
    }
  }
  context.putImageData(image, 0, 0);
}

/** A value and its interval as a line with a dot, on a scale shared by a row. */
function whisker(entry, range) {
  const x = scale(widened(...range), [4, 116]);
  const picture = svg("svg", {
    class: "whisker", viewBox: "0 0 120 12", "aria-hidden": "true",
  }, svg("line", { class: "axis", x1: 2, x2: 118, y1: 6, y2: 6 }));
  if (known(entry.low) && known(entry.high)) {
    const [a, b] = [x(entry.low), x(entry.high)];
    picture.append(
      svg("line", { x1: a, x2: b, y1: 6, y2: 6 }),
      svg("line", { x1: a, x2: a, y1: 3, y2: 9 }),
      svg("line", { x1: b, x2: b, y1: 3, y2: 9 }),
    );
  }
  picture.append(svg("circle", { cx: x(entry.value), cy: 6, r: 3.2 }));
  return picture;
}

function known(value) {
  return value !== null && value !== undefined;
}

const DASHES = ["none", "7 4", "2 4", "10 3 2 3", "12 5"];

/** Lines over training steps, each with its name at its end. */
function runsChart(title, lines, range, width) {
  const HEIGHT = 190;
  const room = 64;
  const last = Math.max(1, ...lines.flatMap((line) => line.points.map((p) => p[0])));
  const x = scale([0, last], [LEFT, width - room]);
  const y = scale(widened(...range), [HEIGHT - 26, 8]);
  const picture = svg("svg", {
    viewBox: `0 0 ${width} ${HEIGHT}`, height: HEIGHT, role: "img", "aria-label":
      `${title}: ` + lines.map((l) => `${l.label} ends at ${number(l.end)}`).join(", "),
  });
  for (const value of range[1] > range[0] ? range : [range[0]]) {
    picture.append(
      svg("line", { class: "axis", x1: LEFT, x2: width - room, y1: y(value), y2: y(value) }),
      svg("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, number(value)),
    );
  }
  for (const at of [0, last]) {
    picture.append(svg("text", {
      x: x(at), y: HEIGHT - 6, "text-anchor": at ? "end" : "start",
    }, at ? `${at.toLocaleString("en")} steps` : "0"));
  }
  // Names at the ends keep clear of each other.
  const ends = lines.filter((line) => line.points.length)
    .map((line) => ({ line, at: y(line.points.at(-1)[1]) }))
    .sort((a, b) => a.at - b.at);
  for (let i = 1; i < ends.length; i++) {
    ends[i].at = Math.max(ends[i].at, ends[i - 1].at + 13);
  }
  for (const { line, at } of ends) {
    picture.append(
      svg("path", { class: "line", d: path(line.points, x, y),
        "stroke-dasharray": DASHES[lines.indexOf(line) % DASHES.length] }),
      svg("text", { x: width - room + 6, y: at + 4 }, line.label),
    );
  }
  return el("figure", {}, el("figcaption", {}, title), picture);
}
