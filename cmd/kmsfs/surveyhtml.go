package main

import (
	"fmt"
	"html/template"
	"os"
	"path/filepath"
)

// surveyPage is status --html: one page that needs nothing else.
const surveyPage = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>kmsfs: {{.Vault}}</title>
<style>
:root { color-scheme: light dark; --line: #8884; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; }
td, th { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; vertical-align: top; }
td.n, th.n { text-align: right; white-space: nowrap; }
svg { width: 100%; height: auto; }
svg.c { width: .8em; margin-right: .4em; }
</style>
</head>
<body>
<h1>{{.Vault}}</h1>
<p>{{.Survey.Records}} data keys, {{.Survey.Files}} files, {{.Survey.Bytes}} bytes.
{{with .Survey.Behind}}{{.}} data keys are behind the current key material or CMK.{{else}}What is behind was not asked.{{end}}</p>
<h2>Bytes by CMK and key material</h2>
<svg viewBox="0 0 1000 60" role="img" aria-label="bytes by CMK and key material">
{{range .Bars}}<rect x="{{.X}}" y="0" width="{{.W}}" height="60" fill="{{.Color}}"><title>{{.Title}}</title></rect>
{{end}}</svg>
<table>
<tr><th>CMK</th><th>Material</th><th>State</th><th class="n">Records</th><th class="n">Files</th><th class="n">Bytes</th></tr>
{{range .Rows}}<tr><td><svg class="c" viewBox="0 0 10 10"><rect width="10" height="10" fill="{{.Color}}"/></svg>{{.Key.CMK}}{{if .Key.Branch}} (branch keys){{end}}{{if ne .Key.Position "primary"}} ({{.Key.Position}}){{end}}</td><td>{{.Material}}</td><td>{{.Key.State}}</td><td class="n">{{.Key.Records}}</td><td class="n">{{.Key.Files}}</td><td class="n">{{.Key.Bytes}}</td></tr>
{{end}}</table>
<h2>Encryption zones</h2>
<table>
<tr><th>Stored path</th><th>Key</th><th class="n">Files</th><th class="n">Bytes</th><th class="n">Behind</th><th class="n">Out of zone</th></tr>
{{range .Survey.Zones}}<tr><td>{{if .Path}}{{.Path}}{{else}}/{{end}}</td><td>{{.Key}}</td><td class="n">{{.Files}}</td><td class="n">{{.Bytes}}</td><td class="n">{{.Behind}}</td><td class="n">{{.OutOfZone}}</td></tr>
{{end}}</table>
{{if .Survey.Problems}}<h2>Problems</h2>
<ul>{{range .Survey.Problems}}<li>{{.}}</li>
{{end}}</ul>{{end}}
</body>
</html>
`

// bar is a part of the picture: its place and width of 1000.
type bar struct {
	X, W         float64
	Color, Title string
}

// pageRow is a row of the page's table.
type pageRow struct {
	Key             surveyKey
	Material, Color string
}

// writeHTML writes the survey as a page to file, which is there whole or not at all.
func (info *surveyInfo) writeHTML(file, vault string) error {
	page, err := template.New("survey").Parse(surveyPage)
	if err != nil {
		return err
	}
	var bars []bar
	var rows []pageRow
	x := 0.0
	for i, k := range info.Keys {
		color := fmt.Sprintf("hsl(%d 55%% 50%%)", (210+i*67)%360)
		rows = append(rows, pageRow{k, shortMaterial(k.KeyMaterialID), color})
		if k.Position != position(0) {
			continue
		}
		share := func(part, all int64) float64 { return 1000 * float64(part) / float64(max(all, 1)) }
		w := share(k.Bytes, info.Bytes)
		if info.Bytes == 0 {
			w = share(k.Records, info.Records)
		}
		bars = append(bars, bar{x, w, color, fmt.Sprintf("%s %s: %d bytes, %d files", k.CMK, shortMaterial(k.KeyMaterialID), k.Bytes, k.Files)})
		x += w
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".kmsfs-status-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	err = page.Execute(f, struct {
		Vault  string
		Survey *surveyInfo
		Bars   []bar
		Rows   []pageRow
	}{vault, info, bars, rows})
	if err == nil {
		err = f.Chmod(0o644)
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}
