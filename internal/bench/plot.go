package bench

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// The plot is a strip chart: a band a fault, a row a subject, a dot a trial, on
// a logarithmic axis of the gap that the client saw.
const (
	plotWidth  = 960.0
	plotLeft   = 330.0 // where the axis begins: titles are left of it
	plotRight  = 930.0
	plotTop    = 64.0
	rowHeight  = 17.0
	bandGap    = 13.0
	axisFrom   = 0.5     // ms
	axisTo     = 60000.0 // ms
	plotBottom = 44.0
)

// plot draws the report's faults as an SVG 1.1 document.
func plot(r *Report) string {
	var body strings.Builder
	y := plotTop
	for _, f := range faults() {
		if rows := plotBand(&body, r, f, y); rows > 0 {
			y += float64(rows)*rowHeight + bandGap
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" font-family="sans-serif" font-size="12">`+"\n", plotWidth, y+plotBottom)
	b.WriteString(`<rect width="100%" height="100%" fill="#ffffff"/>` + "\n")
	fmt.Fprintf(&b, `<text x="16" y="26" font-size="16" font-weight="bold" fill="#222222">No answer for the client, by fault</text>`+"\n")
	fmt.Fprintf(&b, `<text x="16" y="46" fill="#555555">a dot is a trial (the longer gap of its two addresses), the bar is the median; a red ring: two hosts answered at the same time</text>`+"\n")
	plotAxis(&b, y)
	b.WriteString(body.String())
	b.WriteString("</svg>\n")
	return b.String()
}

// plotAxis draws the grid and its labels.
func plotAxis(b *strings.Builder, bottom float64) {
	for _, tick := range []struct {
		ms    float64
		label string
	}{{1, "1 ms"}, {10, "10 ms"}, {100, "100 ms"}, {1000, "1 s"}, {10000, "10 s"}, {60000, "1 min"}} {
		x := plotX(tick.ms)
		fmt.Fprintf(b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#dddddd"/>`+"\n", x, plotTop-4, x, bottom)
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="middle" fill="#555555">%s</text>`+"\n", x, bottom+18, tick.label)
	}
}

// plotBand draws a fault's rows and returns how many there are.
func plotBand(b *strings.Builder, r *Report, f fault, top float64) (rows int) {
	for _, s := range r.Subjects {
		trials := r.trials(s.Key, f.key)
		if len(trials) == 0 {
			continue
		}
		y := top + (float64(rows)+0.5)*rowHeight
		colour := subjectColour(s)
		if rows == 0 {
			fmt.Fprintf(b, `<text x="16" y="%.1f" font-weight="bold" fill="#222222">%s</text>`+"\n", y+4, html.EscapeString(f.title))
		}
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="end" font-size="11" fill="%s">%s</text>`+"\n", plotLeft-10, y+4, colour, html.EscapeString(s.Title))
		fmt.Fprintf(b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#eeeeee"/>`+"\n", plotLeft, y, plotRight, y)
		gaps := collect(trials, Trial.longest)
		for i, t := range trials {
			ring := "none"
			if t.both() {
				ring = "#d6001c"
			}
			fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="3.2" fill="%s" fill-opacity="0.55" stroke="%s" stroke-width="1.8"/>`+"\n", plotX(gaps[i]), y, colour, ring)
		}
		fmt.Fprintf(b, `<rect x="%.1f" y="%.1f" width="2.4" height="13" fill="%s"/>`+"\n", plotX(Summarize(gaps).Median)-1.2, y-6.5, colour)
		rows++
	}
	return rows
}

// longest is the longer gap of the trial's two addresses, in ms.
func (t Trial) longest() float64 { return max(t.V4.Gap, t.V6.Gap) }

// plotX is where a gap of so many ms is; what is off the axis is at its end.
func plotX(ms float64) float64 {
	ms = min(max(ms, axisFrom), axisTo)
	return plotLeft + (plotRight-plotLeft)*math.Log(ms/axisFrom)/math.Log(axisTo/axisFrom)
}

// subjectColour tells products apart; the faster setting is the darker one.
func subjectColour(s Subject) string {
	switch {
	case s.Group == ours && s.Scaled:
		return "#0b5f8a"
	case s.Group == ours:
		return "#4f9fc4"
	case s.Scaled:
		return "#b35900"
	default:
		return "#dd9a45"
	}
}
