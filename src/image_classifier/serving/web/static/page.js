"use strict";

const MAX_PARALLEL = 3;
const MAX_ATTEMPTS = 5;
const SMALL_IMAGE_SIDE = 128; // pixels; smaller images are shown without smoothing
const maxUpload = Number(document.body.dataset.maxUpload);
const results = document.getElementById("results");
const status = document.getElementById("status");
const pickers = [document.getElementById("file"), document.getElementById("camera")];
const token = document.getElementById("token");
const queue = [];
let running = 0;

function percent(probability) {
  return `${(100 * probability).toFixed(1)} %`;
}

function size(bytes, round = Math.ceil) {
  if (bytes < 1e3) return `${bytes} bytes`;
  return bytes < 1e6 ? `${round(bytes / 1e3)} kB` : `${(round(bytes / 1e5) / 10).toFixed(1)} MB`;
}

function enqueue(files) {
  for (const file of files) queue.push({ file, card: newCard(file) });
  startNext();
}

function startNext() {
  while (running < MAX_PARALLEL && queue.length) {
    const { file, card } = queue.shift();
    running += 1;
    classify(file, card).finally(() => {
      running -= 1;
      startNext();
    });
  }
}

function newCard(file) {
  const card = document.getElementById("result").content.cloneNode(true).querySelector(".result");
  const photo = card.querySelector(".photo");
  photo.addEventListener("load", () => {
    photo.classList.toggle("small", Math.max(photo.naturalWidth, photo.naturalHeight) <= SMALL_IMAGE_SIDE);
    URL.revokeObjectURL(photo.src);
  });
  photo.addEventListener("error", () => {
    card.classList.add("no-preview");
    URL.revokeObjectURL(photo.src);
  });
  photo.alt = file.name;
  photo.src = URL.createObjectURL(file);
  card.querySelector(".file").textContent = `${file.name}, ${size(file.size)}`;
  card.querySelector(".label").textContent = "Classifying …";
  card.classList.add("waiting");
  const button = card.querySelector(".explain");
  button.addEventListener("click", () => explain(file, card, button));
  card.querySelector(".code").addEventListener("click", () => {
    showCode(file);
    document.getElementById("curl-title").focus();
  });
  results.prepend(card);
  return card;
}

async function classify(file, card) {
  const started = performance.now();
  try {
    if (file.size > maxUpload) {
      throw new Error(`the file is ${size(file.size)}; the limit is ${size(maxUpload, Math.floor)}`);
    }
    const response = await json(await post("predict", file, () => {
      card.querySelector(".label").textContent = "The server is busy; retrying …";
    }));
    show(response, card, performance.now() - started);
    const [first] = response.predictions;
    status.textContent = `${file.name}: ${first.label}, ${percent(first.probability)}`;
    showCode(file);
  } catch (error) {
    card.classList.add("failed");
    card.querySelector(".label").textContent = "Not classified";
    card.querySelector(".error").textContent = sentence(error.message);
    status.textContent = `${file.name}: ${error.message}`;
  }
  card.classList.remove("waiting");
}

async function post(path, file, onBusy, attempt = 1) {
  let response;
  try {
    response = await fetch(path, {
      method: "POST",
      headers: {
        "Content-Type": file.type.startsWith("image/") ? file.type : "application/octet-stream",
        ...(token?.value && { Authorization: `Bearer ${token.value}` }),
      },
      body: file,
    });
  } catch {
    throw new Error("cannot reach the server; check that it is running, then try again");
  }
  if (response.ok) return response;
  if (response.status === 503 && attempt < MAX_ATTEMPTS) {
    // Exponential backoff with jitter, so that rejected requests do not all return at the same time.
    const seconds = Number(response.headers.get("Retry-After") ?? 1) * 2 ** (attempt - 1);
    onBusy();
    await new Promise((resume) => setTimeout(resume, 1e3 * seconds * (0.5 + Math.random())));
    return post(path, file, onBusy, attempt + 1);
  }
  let body = {};
  try {
    body = await response.json();
  } catch {
    // The response is from a proxy in front of the server.
  }
  throw new Error(body.error ?? `the server returned status ${response.status}; try again`);
}

async function json(response) {
  try {
    return await response.json();
  } catch {
    throw new Error("the response is not valid JSON; try again");
  }
}

async function explain(file, card, button) {
  const heat = card.querySelector(".heat");
  const shown = card.classList.contains("explained");
  if (!shown && !heat.src) {
    button.disabled = true;
    try {
      const response = await post("explain?format=png", file, () => {
        button.textContent = "The server is busy; retrying …";
      });
      heat.src = URL.createObjectURL(await response.blob());
      // A server of an older revision, during a roll-out, does not send the header.
      const method = response.headers.get("X-Explanation-Method");
      if (method) card.querySelector(".legend").append(` Method: ${method.replace("_", " ")}.`);
      heat.alt = "Heat map: yellow areas influenced the prediction most, violet areas least";
    } catch (error) {
      button.textContent = sentence(error.message);
      return;
    } finally {
      button.disabled = false;
    }
  }
  heat.hidden = shown;
  card.classList.toggle("explained", !shown);
  button.textContent = shown ? "Show explanation" : "Hide explanation";
}

function show(response, card, milliseconds) {
  const [prediction] = response.predictions;
  card.querySelector(".label").textContent = prediction.label;
  card.querySelector("tbody").replaceChildren(...prediction.top.map(row));
  const computing = response.milliseconds.decode + response.milliseconds.infer;
  card.querySelector(".timing").textContent =
    `${milliseconds.toFixed(0)} ms total, ${computing.toFixed(1)} ms decoding and inference · version ${response.model.version}`;
  card.classList.add("done");
}

function row({ label, probability }) {
  const bar = element("span", { className: "bar" });
  const track = element("span", { className: "track" }, bar);
  const text = element("span", { textContent: percent(probability) });
  requestAnimationFrame(() => requestAnimationFrame(() => {
    bar.style.width = `${100 * probability}%`;
  }));
  const cell = element("td", {}, element("div", { className: "probability" }, track, text));
  return element("tr", {}, element("th", { scope: "row", textContent: label }), cell);
}

function element(tag, properties, ...children) {
  const created = Object.assign(document.createElement(tag), properties);
  created.append(...children);
  return created;
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

function showCode(file) {
  const name = file ? file.name : "photo.jpg";
  const quoted = /^[\w.-]+$/.test(name) ? name : `'${name.replaceAll("'", "'\\''")}'`;
  const address = new URL("predict", location.href);
  const header = token ? ' -H "Authorization: Bearer $TOKEN"' : "";
  document.getElementById("curl").textContent = `curl --data-binary @${quoted}${header} ${address}`;
  const lines = [`url = "${address}"`, `with open(${JSON.stringify(name)}, "rb") as file:`];
  if (token) {
    lines.unshift("import json, os", "from urllib.request import Request, urlopen", "");
    lines.push(
      "    request = Request(url, file.read())",
      'request.add_header("Authorization", "Bearer " + os.environ["TOKEN"])',
      "answer = json.load(urlopen(request))",
    );
  } else {
    lines.unshift("import json", "from urllib.request import urlopen", "");
    lines.push("    answer = json.load(urlopen(url, file.read()))");
  }
  lines.push('print(answer["predictions"][0]["label"])');
  document.getElementById("python").textContent = lines.join("\n");
}

async function copy(button) {
  const code = document.getElementById(button.dataset.copies);
  getSelection().selectAllChildren(code);
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
  } catch {
    // Without TLS, browsers give no access to the clipboard; the text is selected instead.
    button.textContent = "Selected; press Ctrl+C";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

async function tryExample(button) {
  const path = button.dataset.example;
  const response = await fetch(path);
  // Part of the commands on the page: letters, digits and pictographs of any script.
  const label = button.title.replaceAll(/[^\p{L}\p{M}\p{N}\p{Extended_Pictographic}_.-]+/gu, "-");
  const name = /^-*$/.test(label) ? "example.png" : `${label}.png`;
  enqueue([new File([await response.blob()], name, { type: "image/png" })]);
}

function holdsFiles(event) {
  return event.dataTransfer?.types.includes("Files");
}

for (const picker of pickers) {
  picker.addEventListener("change", () => {
    enqueue([...picker.files]);
    picker.value = "";
  });
}

document.addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files ?? [])];
  if (!files.length) return;
  event.preventDefault();
  enqueue(files);
});

document.addEventListener("dragover", (event) => {
  if (!holdsFiles(event)) return;
  event.preventDefault();
  document.body.classList.add("dragging");
});

document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});

document.addEventListener("drop", (event) => {
  document.body.classList.remove("dragging");
  if (!holdsFiles(event)) return;
  event.preventDefault();
  enqueue([...event.dataTransfer.files]);
});

for (const button of document.querySelectorAll("[data-example]")) {
  button.addEventListener("click", () => tryExample(button));
}
for (const button of document.querySelectorAll(".copy")) button.addEventListener("click", () => copy(button));
showCode();
