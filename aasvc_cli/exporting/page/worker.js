// Runs the graph: samples in, samples out. Another thread, so that the page goes on answering.
import * as ort from "./runtime/ort.wasm.min.mjs";

ort.env.wasm.wasmPaths = new URL("./runtime/", import.meta.url).href;
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;

const loading = ort.InferenceSession.create(new URL("./convert.onnx", import.meta.url).href);
loading.then(() => postMessage({ ready: true }), (error) => postMessage({ error: `The voice cannot be loaded: ${error}` }));

addEventListener("message", async ({ data: { samples, speed } }) => {
  try {
    const session = await loading;
    const { wave } = await session.run({
      samples: new ort.Tensor("float32", samples, [samples.length]),
      speed: new ort.Tensor("float32", [speed], []),
      seed: new ort.Tensor("int64", [1n], []),
    });
    postMessage({ wave: wave.data }, [wave.data.buffer]);
  } catch (error) {
    postMessage({ error: `This could not be converted: ${error}` });
  }
});
