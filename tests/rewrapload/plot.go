package main

import (
	"bytes"
	"fmt"
	"math"
)

// point is what a vault took, in seconds.
type point struct {
	keys          int
	rewrap, again float64
}

// Sizes of the plot in pixels.
const (
	plotWidth, plotHeight = 640, 420
	plotMargin            = 60
)

// plot draws time against keys, both logarithmic, as an SVG.
func plot(points []point) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", plotWidth, plotHeight)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", plotWidth, plotHeight)
	x0, x1, y0, y1 := math.Inf(1), math.Inf(-1), math.Inf(1), math.Inf(-1)
	for _, p := range points {
		x := math.Log10(float64(p.keys))
		x0, x1 = min(x0, math.Floor(x)), max(x1, math.Ceil(x))
		for _, s := range []float64{p.rewrap, p.again} {
			y := math.Log10(max(s, 1e-4))
			y0, y1 = min(y0, math.Floor(y)), max(y1, math.Ceil(y))
		}
	}
	if x1 <= x0 {
		x1 = x0 + 1
	}
	if y1 <= y0 {
		y1 = y0 + 1
	}
	at := func(keys, seconds float64) (x, y float64) {
		x = plotMargin + (math.Log10(keys)-x0)/(x1-x0)*(plotWidth-2*plotMargin)
		y = plotHeight - plotMargin - (math.Log10(max(seconds, 1e-4))-y0)/(y1-y0)*(plotHeight-2*plotMargin)
		return x, y
	}
	for e := x0; e <= x1; e++ {
		x, bottom := at(math.Pow(10, e), math.Pow(10, y0))
		fmt.Fprintf(&b, `<path d="M%.1f %d V%.1f" stroke="#ddd"/><text x="%.1f" y="%.1f" text-anchor="middle">10^%.0f</text>`+"\n", x, plotMargin, bottom, x, bottom+18, e)
	}
	for e := y0; e <= y1; e++ {
		left, y := at(math.Pow(10, x0), math.Pow(10, e))
		fmt.Fprintf(&b, `<path d="M%.1f %.1f H%d" stroke="#ddd"/><text x="%.1f" y="%.1f" text-anchor="end">%g s</text>`+"\n", left, y, plotWidth-plotMargin, left-6, y+4, math.Pow(10, e))
	}
	for i, line := range []struct {
		name, colour string
		of           func(p point) float64
	}{{"rewrap", "#c33", func(p point) float64 { return p.rewrap }}, {"once more: nothing to do", "#36c", func(p point) float64 { return p.again }}} {
		path := ""
		for j, p := range points {
			x, y := at(float64(p.keys), line.of(p))
			path += fmt.Sprintf("%c%.1f %.1f ", "ML"[min(j, 1)], x, y)
			fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", x, y, line.colour)
		}
		fmt.Fprintf(&b, `<path d="%s" fill="none" stroke="%s" stroke-width="2"/><text x="%d" y="%d" fill="%s">%s</text>`+"\n", path, line.colour, plotMargin+10, plotMargin+16*(i+1), line.colour, line.name)
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">keys in the vault</text></svg>`+"\n", plotWidth/2, plotHeight-14)
	return b.Bytes()
}
