import { create } from "./api.js";

/** A button that records from the microphone into a file field, as a WAV file. */
export function recorder(field) {
  const button = create("button", "record", "Record");
  button.type = "button";
  button.hidden = !navigator.mediaDevices || !window.MediaRecorder;
  let recording = null;
  button.addEventListener("click", async () => {
    if (recording) return recording.stop();
    try {
      recording = await start(async (blob) => {
        recording = null;
        button.textContent = "Record";
        const files = new DataTransfer();
        files.items.add(new File([await asWav(blob)], "recording.wav", { type: "audio/wav" }));
        field.files = files.files;
      });
      button.textContent = "Stop";
    } catch (error) {
      button.textContent = `no microphone (${error.name})`;
    }
  });
  return button;
}

async function start(onEnd) {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const recording = new MediaRecorder(stream), parts = [];
  recording.addEventListener("dataavailable", ({ data }) => parts.push(data));
  recording.addEventListener("stop", () => {
    for (const track of stream.getTracks()) track.stop();
    onEnd(new Blob(parts, { type: recording.mimeType }));
  });
  recording.start();
  return recording;
}

/** The first channel of a recording as 16-bit WAV: the server reads none of what browsers record. */
export async function asWav(blob) {
  const context = new AudioContext();
  const decoded = await context.decodeAudioData(await blob.arrayBuffer());
  await context.close();
  const samples = decoded.getChannelData(0), rate = decoded.sampleRate;
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (place, letters) => [...letters].forEach((c, i) => view.setUint8(place + i, c.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channel
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((value, i) => view.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, value)) * 32767, true));
  return view.buffer;
}
