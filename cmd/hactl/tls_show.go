package main

import (
	"crypto/x509"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"had/internal/pki"
)

func (c *cli) newTLSShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show FILE",
		Short: "Show whose a certificate is and how long it is good for",
		Long:  "Show, for each certificate in a PEM file, whose it is, what its role is and when it expires.",
		Example: `  hactl tls show /etc/had/tls/node.pem
  hactl tls show ~/.config/had/client.pem -o json | jq '.certificates[].days_left'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneFile(cmd, args); err != nil {
				return err
			}
			return c.tlsShow(args[0])
		},
	}
}

// certificateDocument is a certificate in JSON.
type certificateDocument struct {
	SchemaVersion int       `json:"schema_version,omitempty"`
	File          string    `json:"file"`
	Kind          string    `json:"kind"` // ca, node, client or other
	Name          string    `json:"name"`
	Role          string    `json:"role"`
	Cluster       string    `json:"cluster"`
	NotBefore     time.Time `json:"not_before"`
	NotAfter      time.Time `json:"not_after"`
	DaysLeft      int       `json:"days_left"` // negative: expired so long ago
	Issuer        string    `json:"issuer"`
	Fingerprint   string    `json:"fingerprint"` // SHA-256
}

func documentOf(file string, cert *x509.Certificate) certificateDocument {
	d := certificateDocument{
		File: file, Kind: "other", Name: cert.Subject.CommonName, NotBefore: cert.NotBefore.UTC(), NotAfter: cert.NotAfter.UTC(),
		DaysLeft: int(time.Until(cert.NotAfter) / day), Issuer: cert.Issuer.CommonName, Fingerprint: pki.Fingerprint(cert),
	}
	if cluster, err := pki.Cluster(cert); cert.IsCA {
		d.Kind = "ca"
		if err == nil {
			d.Cluster = cluster
		}
		return d
	}
	n, err := pki.NameIn(cert)
	switch {
	case err != nil:
		d.Name = strings.Join(append(cert.DNSNames, cert.Subject.CommonName), ", ")
	case n.Node != "":
		d.Kind, d.Name, d.Cluster = "node", n.Node, n.Cluster
	default:
		d.Kind, d.Name, d.Role, d.Cluster = "client", n.Client, n.Role.String(), n.Cluster
	}
	return d
}

func (c *cli) tlsShow(file string) error {
	certs, err := pki.ReadCertificates(file)
	if err != nil {
		return c.tlsFailure(err, "")
	}
	var docs []certificateDocument
	var text strings.Builder
	for _, cert := range certs {
		d := documentOf(file, cert)
		docs = append(docs, d)
		text.WriteString(d.text())
	}
	if c.json() {
		return c.printValue(struct {
			SchemaVersion int                   `json:"schema_version"`
			Certificates  []certificateDocument `json:"certificates"`
		}{schemaVersion, docs})
	}
	return c.print(text.String())
}

func (d certificateDocument) text() string {
	who := d.Name
	switch d.Kind {
	case "ca":
		who = "a CA, " + d.Name
	case "node":
		who = fmt.Sprintf("node %s of %s", d.Name, d.Cluster)
	case "client":
		who = fmt.Sprintf("%s, %s of %s", d.Name, d.Role, d.Cluster)
	}
	left := fmt.Sprintf("good until %s (%d days)", d.NotAfter.Format(time.DateOnly), d.DaysLeft)
	switch {
	case time.Now().After(d.NotAfter):
		left = "EXPIRED on " + d.NotAfter.Format(time.DateOnly)
	case time.Now().Before(d.NotBefore):
		left = "not good before " + d.NotBefore.Format(time.RFC3339)
	}
	return clean(fmt.Sprintf("%s: %s", who, left)) + "\n" + clean(fmt.Sprintf("  issued by %s, fingerprint %s", d.Issuer, d.Fingerprint)) + "\n"
}
