from callbax.scipy import special as special
