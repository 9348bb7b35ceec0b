// Pictures out of sheets, which are loaded when one of theirs is looked at.
const sheets = new Map();
function sheetOf(layout, number) {
  const address = layout.sheets[number];
  if (!sheets.has(address)) {
    const image = new Image();
    sheets.set(address, new Promise((resolve, reject) => {
      image.onload = () => resolve(image);
      image.onerror = () => reject(new Error('a sheet of pictures is not there'));
    }));
    image.src = address;
  }
  return sheets.get(address);
}
async function paint(canvas, layout, place) {
  // A canvas may be asked for another picture before a sheet has come.
  const asked = canvas.asked = {};
  if (!canvas.width || canvas.width !== layout.width || canvas.height !== layout.height) {
    canvas.width = layout.width; canvas.height = layout.height;
  }
  const context = canvas.getContext('2d');
  if (place === undefined) { context.clearRect(0, 0, canvas.width, canvas.height); return; }
  const image = await sheetOf(layout, Math.floor(place / layout.perSheet));
  if (canvas.asked !== asked) return;
  const at = place % layout.perSheet;
  context.drawImage(image, at % layout.columns * layout.width,
    Math.floor(at / layout.columns) * layout.height, layout.width, layout.height,
    0, 0, layout.width, layout.height);
  canvas.dataset.place = place;
}
