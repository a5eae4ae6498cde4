"use strict";

const AT_ONCE = 3;
const ATTEMPTS = 5;
const SMALL_SIDE = 128;
const maxUpload = Number(document.body.dataset.maxUpload);
const results = document.getElementById("results");
const status = document.getElementById("status");
const pickers = [document.getElementById("file"), document.getElementById("camera")];
const token = document.getElementById("token");
const waiting = [];
let running = 0;

function percent(probability) {
  return `${(100 * probability).toFixed(1)} %`;
}

function size(bytes, round = Math.ceil) {
  if (bytes < 1e3) {
    return `${bytes} bytes`;
  }
  return bytes < 1e6 ? `${round(bytes / 1e3)} kB` : `${(round(bytes / 1e5) / 10).toFixed(1)} MB`;
}

function ask(files) {
  for (const file of files) {
    waiting.push({ file, card: newCard(file) });
  }
  next();
}

function next() {
  while (running < AT_ONCE && waiting.length) {
    const { file, card } = waiting.shift();
    running += 1;
    classify(file, card).finally(() => {
      running -= 1;
      next();
    });
  }
}

function newCard(file) {
  const card = document.getElementById("answer").content.cloneNode(true).querySelector(".answer");
  const photo = card.querySelector(".photo");
  photo.addEventListener("load", () => {
    photo.classList.toggle("small", Math.max(photo.naturalWidth, photo.naturalHeight) <= SMALL_SIDE);
    URL.revokeObjectURL(photo.src);
  });
  photo.addEventListener("error", () => {
    card.classList.add("unseen");
    URL.revokeObjectURL(photo.src);
  });
  photo.alt = file.name;
  photo.src = URL.createObjectURL(file);
  card.querySelector(".file").textContent = `${file.name}, ${size(file.size)}`;
  card.querySelector(".label").textContent = "Asking …";
  card.classList.add("waiting");
  const button = card.querySelector(".explain");
  button.addEventListener("click", () => explain(file, card, button));
  card.querySelector(".program").addEventListener("click", () => {
    showCommands(file);
    document.getElementById("curl-title").focus();
  });
  results.prepend(card);
  return card;
}

async function classify(file, card) {
  const started = performance.now();
  try {
    if (file.size > maxUpload) {
      throw new Error(`the file has ${size(file.size)}, more than the limit of ${size(maxUpload, Math.floor)}`);
    }
    const answer = await json(await post("predict", file, () => {
      card.querySelector(".label").textContent = "The server is busy; asking again …";
    }));
    show(answer, card, performance.now() - started);
    const [first] = answer.predictions;
    status.textContent = `${file.name}: ${first.label}, ${percent(first.probability)}`;
    showCommands(file);
  } catch (error) {
    card.classList.add("failed");
    card.querySelector(".label").textContent = "No answer";
    card.querySelector(".error").textContent = sentence(error.message);
    status.textContent = `${file.name}: ${error.message}`;
  }
  card.classList.remove("waiting");
}

async function post(path, file, tellBusy, attempt = 1) {
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
    throw new Error("the server cannot be reached; look whether it still runs, then try again");
  }
  if (response.ok) {
    return response;
  }
  if (response.status === 503 && attempt < ATTEMPTS) {
    // Each time twice as long: who is refused together must not come back together, for ever.
    const seconds = Number(response.headers.get("Retry-After") ?? 1) * 2 ** (attempt - 1);
    tellBusy();
    await new Promise((resume) => setTimeout(resume, 1e3 * seconds * (0.5 + Math.random())));
    return post(path, file, tellBusy, attempt + 1);
  }
  let answer = {};
  try {
    answer = await response.json();
  } catch {
    // Not from this server, but from a proxy before it: the status is all there is to say.
  }
  throw new Error(answer.error ?? `the server answered ${response.status}; try again`);
}

async function json(response) {
  try {
    return await response.json();
  } catch {
    throw new Error("the server sent something that is not an answer; try again");
  }
}

async function explain(file, card, button) {
  const heat = card.querySelector(".heat");
  const shown = card.classList.contains("explained");
  if (!shown && !heat.src) {
    button.disabled = true;
    try {
      const response = await post("explain?format=png", file, () => {
        button.textContent = "The server is busy; asking again …";
      });
      heat.src = URL.createObjectURL(await response.blob());
      heat.alt = "Yellow: the parts of the image that decided; violet: those that did not matter";
    } catch (error) {
      button.textContent = sentence(error.message);
      return;
    } finally {
      button.disabled = false;
    }
  }
  heat.hidden = shown;
  card.classList.toggle("explained", !shown);
  button.textContent = shown ? "Show what it looked at" : "Hide what it looked at";
}

function show(answer, card, milliseconds) {
  const [prediction] = answer.predictions;
  card.querySelector(".label").textContent = prediction.label;
  card.querySelector("tbody").replaceChildren(...prediction.top.map(row));
  const inside = answer.milliseconds.decode + answer.milliseconds.infer;
  card.querySelector(".timing").textContent =
    `${milliseconds.toFixed(0)} ms in all, ${inside.toFixed(1)} ms of it in the model · version ${answer.model.version}`;
  card.classList.add("done");
}

function row({ label, probability }) {
  const line = document.createElement("tr");
  const name = document.createElement("th");
  name.scope = "row";
  name.textContent = label;
  const cell = document.createElement("td");
  const share = document.createElement("div");
  share.className = "share";
  const track = document.createElement("span");
  track.className = "track";
  const bar = document.createElement("span");
  bar.className = "bar";
  track.append(bar);
  const text = document.createElement("span");
  text.textContent = percent(probability);
  share.append(track, text);
  cell.append(share);
  line.append(name, cell);
  requestAnimationFrame(() => requestAnimationFrame(() => {
    bar.style.width = `${100 * probability}%`;
  }));
  return line;
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

function showCommands(file) {
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
    // Without TLS a browser keeps the clipboard to itself; the text is selected.
    button.textContent = "Selected; press Ctrl+C";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

async function tryExample(button) {
  const path = button.dataset.example;
  const response = await fetch(path);
  const name = `${button.title.replaceAll(/[^\w.-]+/g, "-")}.png`;
  ask([new File([await response.blob()], name, { type: "image/png" })]);
}

function holdsFiles(event) {
  return event.dataTransfer?.types.includes("Files");
}

for (const picker of pickers) {
  picker.addEventListener("change", () => {
    ask([...picker.files]);
    picker.value = "";
  });
}

document.addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files ?? [])];
  if (files.length) {
    event.preventDefault();
    ask(files);
  }
});

document.addEventListener("dragover", (event) => {
  if (holdsFiles(event)) {
    event.preventDefault();
    document.body.classList.add("dragging");
  }
});

document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) {
    document.body.classList.remove("dragging");
  }
});

document.addEventListener("drop", (event) => {
  document.body.classList.remove("dragging");
  if (holdsFiles(event)) {
    event.preventDefault();
    ask([...event.dataTransfer.files]);
  }
});

for (const button of document.querySelectorAll("[data-example]")) {
  button.addEventListener("click", () => tryExample(button));
}
for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", () => copy(button));
}
showCommands();
