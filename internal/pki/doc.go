// Package pki is a cluster's own certificate authority, and the names in its
// certificates: which node, or which person with which role. It does what
// crypto/x509 leaves open, offline and on one machine, and knows nothing of
// who shows or checks a certificate.
package pki
