// Builds what `nla serve` hands out: page/src -> nla_sdk/serve/page. The same sources and lock give the same bytes.
import { build } from "esbuild";
import { copyFile, mkdir, readFile, writeFile } from "node:fs/promises";
import path from "node:path";

const here = import.meta.dirname;
const out = path.resolve(process.argv[2] ?? path.join(here, "../nla_sdk/serve/page"));
const BUNDLED = ["preact", "@preact/signals", "@preact/signals-core"];

async function notice() {
  const parts = await Promise.all(
    BUNDLED.map(async (name) => {
      const folder = path.join(here, "node_modules", name);
      const { version } = JSON.parse(await readFile(path.join(folder, "package.json"), "utf8"));
      const licence = (await readFile(path.join(folder, "LICENSE"), "utf8")).trim().replaceAll("*/", "* /");
      return `${name} ${version}\n\n${licence}`;
    }),
  );
  return `/*! nla-sdk, Apache-2.0. It holds:\n\n${parts.join("\n\n----\n\n")}\n*/`;
}

const common = {
  absWorkingDir: here,
  bundle: true,
  minify: true,
  charset: "utf8",
  target: ["es2022"],
  legalComments: "none", // the whole licences stand at the head instead
  logLevel: "warning",
};

await mkdir(out, { recursive: true });
const css = await build({ ...common, entryPoints: ["src/style/style.css"], write: false });
const sheet = css.outputFiles[0].text;
await writeFile(path.join(out, "nla.css"), sheet);
const script = {
  ...common,
  format: "esm",
  jsx: "automatic",
  jsxImportSource: "preact",
  banner: { js: await notice() },
};
await build({ ...script, entryPoints: ["src/main.jsx"], outfile: path.join(out, "nla.js") });
await build({
  ...script,
  entryPoints: ["src/widget.jsx"],
  outfile: path.join(out, "widget.js"),
  define: { STYLE: JSON.stringify(sheet) },
});
await copyFile(path.join(here, "src/index.html"), path.join(out, "index.html"));
