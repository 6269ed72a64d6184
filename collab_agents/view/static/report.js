// A tree is kept compressed beside the fold that shows it, and unpacked when that is opened for the first time.
async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

for (const fold of document.querySelectorAll("details[data-packed]")) {
  fold.addEventListener("toggle", async () => {
    const packed = fold.querySelector("script[type='text/plain']");
    if (!fold.open || !packed) return;
    const html = await unpack(packed.textContent.trim());
    const place = document.createElement("div");
    place.append(...new DOMParser().parseFromString(html, "text/html").body.childNodes);
    packed.replaceWith(place);
  });
}
